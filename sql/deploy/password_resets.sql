-- Deploy maxbooster:password_resets to pg

BEGIN;

-- Single-use tokens, known here only by their hash; on the user's shard.
CREATE TABLE password_resets (
    token_hash text PRIMARY KEY CHECK (token_hash ~ '^[0-9a-f]{64}$'),
    user_id    uuid NOT NULL,
    expires_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- All tokens of a user end with the first that is used.
CREATE INDEX password_resets_user ON password_resets (user_id);

-- The sweep of expired ones.
CREATE INDEX password_resets_expiry ON password_resets (expires_at);

COMMIT;
