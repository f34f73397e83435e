-- Verify maxbooster:jobs on pg

BEGIN;

SELECT id, user_id, type, status, payload, progress, attempts, stalled, fence, result, error,
       traceparent, run_at, created_at, started_at, finished_at, updated_at
FROM jobs WHERE false;
SELECT 'jobs_user'::regclass, 'jobs_unfinished'::regclass;

ROLLBACK;
