-- Revert maxbooster:queue from pg

BEGIN;

DELETE FROM shard_tables
WHERE name IN ('job_logs', 'crons', 'scheduler_fence', 'email_suppressions');
DROP TABLE email_suppressions;
DROP TABLE scheduler_fence;
DROP TABLE crons;
DROP TABLE job_logs;
ALTER TABLE jobs DROP COLUMN dedup_key;
ALTER TABLE jobs DROP COLUMN waits_for;
ALTER TABLE jobs DROP COLUMN parent_id;

COMMIT;
