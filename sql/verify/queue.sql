-- Verify maxbooster:queue on pg

BEGIN;

SELECT parent_id, waits_for, dedup_key FROM jobs WHERE false;
SELECT job_id, at, fence, n, line FROM job_logs WHERE false;
SELECT name, home, type, schedule, zone, catch_up, payload, is_paused, next_at, updated_at
FROM crons WHERE false;
SELECT name, home, fence FROM scheduler_fence WHERE false;
SELECT email, reason, created_at FROM email_suppressions WHERE false;

ROLLBACK;
