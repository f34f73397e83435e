-- Revert maxbooster:audio_files from pg

BEGIN;

DROP TABLE audio_files;

COMMIT;
