-- Revert maxbooster:shard_map from pg

BEGIN;

DROP FUNCTION shard_gate_trigger();
DROP FUNCTION shard_gate();
DROP FUNCTION shard_gate_key();
DROP TABLE shard_closed;
DROP TABLE shard_map;

COMMIT;
