-- Revert maxbooster:outbox from pg

BEGIN;

DELETE FROM shard_tables WHERE name IN ('outbox', 'outbox_heads');
DROP TRIGGER outbox_job_ended ON jobs;
DROP TRIGGER outbox_job_promised ON jobs;
DROP FUNCTION outbox_tell_job();
DROP TABLE outbox_heads;
DROP TABLE outbox;

COMMIT;
