-- Revert maxbooster:shard_moves from pg

BEGIN;

DROP TABLE shard_moves;
DROP TABLE shard_tables;
ALTER TABLE password_resets REPLICA IDENTITY DEFAULT;
DROP FUNCTION shard_place_of_email(text);
DROP FUNCTION shard_place_of_owned(uuid);
DROP FUNCTION shard_place_of_user(uuid);

COMMIT;
