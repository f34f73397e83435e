-- Verify maxbooster:shard_map on pg

BEGIN;

SELECT epoch, map, written_at FROM shard_map WHERE false;
SELECT epoch, closed_at FROM shard_closed WHERE false;
SELECT 'shard_gate()'::regprocedure, 'shard_gate_trigger()'::regprocedure;
SELECT 1 / (shard_gate_key() = 120269408662629)::int;

ROLLBACK;
