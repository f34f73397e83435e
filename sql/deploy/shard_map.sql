-- Deploy maxbooster:shard_map to pg

BEGIN;

-- Where the shards are. Every database holds the newest map that concerns it, so that a process
-- with an old one learns of the new one from any database that it asks. No passwords stand here.
CREATE TABLE shard_map (
    epoch      bigint PRIMARY KEY CHECK (epoch > 0),
    map        jsonb NOT NULL CHECK (jsonb_typeof(map) = 'object'),
    written_at timestamptz NOT NULL DEFAULT now()
);

-- A row says that this database's shards have moved away with that epoch of the map: it takes no
-- more writes. Normally empty.
CREATE TABLE shard_closed (
    epoch     bigint PRIMARY KEY CHECK (epoch > 0),
    closed_at timestamptz NOT NULL DEFAULT now()
);

-- Key of the advisory lock that is the gate: writers hold it shared until their transaction ends,
-- the mover exclusively while it cuts over.
CREATE FUNCTION shard_gate_key() RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN x'6d6267617465'::bigint;

-- Pass the gate for the length of this transaction, or fail with MB001 where the shards are gone.
-- Waits while a mover holds it. Whoever has passed is waited for by the mover; who comes later
-- meets shard_closed, because the look at it comes after the lock and, under READ COMMITTED, with
-- a snapshot of its own.
CREATE FUNCTION shard_gate() RETURNS void LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(shard_gate_key());
    IF EXISTS (SELECT FROM shard_closed) THEN
        RAISE EXCEPTION 'shard moved' USING ERRCODE = 'MB001';
    END IF;
END
$$;

-- The same for a trigger BEFORE INSERT OR UPDATE OR DELETE, FOR EACH STATEMENT: the fence at the
-- data, whatever clients know. Only tables of a database that is being moved have it.
CREATE FUNCTION shard_gate_trigger() RETURNS trigger LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM shard_gate();
    RETURN NULL;
END
$$;

COMMIT;
