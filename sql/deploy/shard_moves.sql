-- Deploy maxbooster:shard_moves to pg

BEGIN;

-- Places, as lib/id.h makes them: the first 8 hex digits of a hash or of an owned id, as a number.
-- place modulo the number of shards is the shard. For the mover and for people.
CREATE FUNCTION shard_place_of_user(id uuid) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN ('x' || left(encode(sha256(id::text::bytea), 'hex'), 8))::bit(32)::bigint;
CREATE FUNCTION shard_place_of_owned(id uuid) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN ('x' || left(id::text, 8))::bit(32)::bigint;
CREATE FUNCTION shard_place_of_email(email text) RETURNS bigint LANGUAGE sql STABLE PARALLEL SAFE
    RETURN ('x' || left(encode(sha256(convert_to(email, 'UTF8')), 'hex'), 8))::bit(32)::bigint;

-- Where the rows of each table belong: by a user's id, an owned id or an address in that column;
-- or, with none, to this database itself. Every table of the schema stands here, or no shard moves.
CREATE TABLE shard_tables (
    name      text PRIMARY KEY,
    placed_by text NOT NULL CHECK (placed_by IN ('user', 'owned', 'email', 'database')),
    column_name text CHECK ((column_name IS NULL) = (placed_by = 'database'))
);
INSERT INTO shard_tables (name, placed_by, column_name) VALUES
    ('users', 'user', 'id'),
    ('emails', 'email', 'email'),
    ('audio_files', 'owned', 'id'),
    ('uploads', 'owned', 'id'),
    ('jobs', 'owned', 'id'),
    ('password_resets', 'user', 'user_id'),
    ('idempotency', 'user', 'user_id'),
    ('shard_map', 'database', NULL),
    ('shard_closed', 'database', NULL),
    ('shard_tables', 'database', NULL),
    ('shard_moves', 'database', NULL);

-- A delete must tell the place of its row to those who follow it, and the key has not got it.
ALTER TABLE password_resets REPLICA IDENTITY FULL;

-- What a move of this database's shards has reached, in the database that they leave; see
-- docs/internals/reshard.md.
CREATE TABLE shard_moves (
    id         text PRIMARY KEY CHECK (id ~ '^[0-9a-f]{12}$'),
    state      text NOT NULL CHECK (char_length(state) BETWEEN 1 AND 32),
    plan       jsonb NOT NULL CHECK (jsonb_typeof(plan) = 'object'),
    started_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

-- One at a time.
CREATE UNIQUE INDEX shard_moves_open ON shard_moves ((true)) WHERE state NOT IN ('done', 'aborted');

COMMIT;
