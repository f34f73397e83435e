-- Revert maxbooster:sweeps from pg

BEGIN;

DROP INDEX jobs_dead;
DROP INDEX uploads_file;
DROP INDEX audio_files_unwanted;

COMMIT;
