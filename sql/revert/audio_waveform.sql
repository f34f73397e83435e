-- Revert maxbooster:audio_waveform from pg

BEGIN;

ALTER TABLE audio_files DROP COLUMN waveform;

COMMIT;
