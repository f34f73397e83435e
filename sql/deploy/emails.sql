-- Deploy maxbooster:emails to pg

BEGIN;

-- Index of e-mail addresses over all shards: the row lies on the shard of sha256(lower(email)),
-- which is seldom the user's. Reserved first (inactive), active once the users row is there;
-- see README.md.
CREATE TABLE emails (
    email       text PRIMARY KEY
                CHECK (email = lower(email) AND char_length(email) BETWEEN 3 AND 320),
    user_id     uuid NOT NULL,
    active      boolean NOT NULL DEFAULT false,
    reserved_at timestamptz NOT NULL DEFAULT now()
);

-- The recovery looks for reservations that were never activated; there are hardly any.
CREATE INDEX emails_inactive ON emails (reserved_at, email) WHERE NOT active;

COMMIT;
