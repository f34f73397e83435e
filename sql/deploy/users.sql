-- Deploy maxbooster:users to pg

BEGIN;

-- A user's id is a UUIDv7 made by the program; the row lies on the shard of sha256(id).
CREATE TABLE users (
    id            uuid PRIMARY KEY,
    email         text NOT NULL CHECK (char_length(email) BETWEEN 3 AND 320),
    name          text NOT NULL CHECK (char_length(name) BETWEEN 1 AND 200),
    role          text NOT NULL DEFAULT 'artist' CHECK (role IN ('artist', 'admin')),
    password_hash text NOT NULL CHECK (password_hash <> ''),
    version       bigint NOT NULL DEFAULT 1 CHECK (version > 0),
    created_at    timestamptz NOT NULL DEFAULT now(),
    updated_at    timestamptz NOT NULL DEFAULT now()
);

-- Search: lower(name) LIKE '%part%'.
CREATE INDEX users_name_trgm ON users USING gin (lower(name) gin_trgm_ops);

COMMIT;
