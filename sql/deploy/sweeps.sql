-- Deploy maxbooster:sweeps to pg

BEGIN;

-- What the scheduler looks for every minute must not cost a scan of all files or jobs.
CREATE INDEX audio_files_unwanted ON audio_files (updated_at, id)
    WHERE status <> 'verified' OR deleted_at IS NOT NULL;
CREATE INDEX uploads_file ON uploads (file_id) WHERE status = 'open';
CREATE INDEX jobs_dead ON jobs (id) WHERE status = 'failed';

COMMIT;
