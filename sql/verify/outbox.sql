-- Verify maxbooster:outbox on pg

BEGIN;

SELECT id, user_id, seq, type, version, traceparent, data, created_at, relayed_at, parked_at, reason
FROM outbox WHERE false;
SELECT user_id, seq FROM outbox_heads WHERE false;
SELECT 'outbox_waiting'::regclass, 'outbox_relayed'::regclass, 'outbox_parked'::regclass;
SELECT 1 / (count(*) = 2)::int FROM pg_trigger
WHERE tgrelid = 'jobs'::regclass AND tgname IN ('outbox_job_promised', 'outbox_job_ended');
SELECT 1 / (count(*) = 2)::int FROM shard_tables WHERE name IN ('outbox', 'outbox_heads');

ROLLBACK;
