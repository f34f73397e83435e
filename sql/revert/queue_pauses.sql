-- Revert maxbooster:queue_pauses from pg

BEGIN;

DELETE FROM shard_tables WHERE name = 'queue_pauses';
DROP TABLE queue_pauses;

COMMIT;
