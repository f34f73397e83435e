-- Verify maxbooster:audio_waveform on pg

BEGIN;

SELECT waveform FROM audio_files WHERE false;

ROLLBACK;
