-- Deploy maxbooster:audio_waveform to pg

BEGIN;

-- The first waveform, made with the analysis: {"files", "durationMs"}, as its job told of it.
ALTER TABLE audio_files ADD COLUMN waveform jsonb;

COMMIT;
