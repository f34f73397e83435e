-- Verify maxbooster:sweeps on pg

BEGIN;

SELECT 'audio_files_unwanted'::regclass, 'uploads_file'::regclass, 'jobs_dead'::regclass;

ROLLBACK;
