-- Deploy maxbooster:idempotency to pg

BEGIN;

-- Answers by Idempotency-Key, written in the transaction of the effect; good for 24 h.
CREATE TABLE idempotency (
    user_id     uuid NOT NULL,
    key         text NOT NULL CHECK (char_length(key) BETWEEN 1 AND 255),
    fingerprint text NOT NULL,
    status      integer NOT NULL CHECK (status BETWEEN 100 AND 599),
    body        text,
    headers     jsonb,
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, key)
);

-- The sweep of old ones.
CREATE INDEX idempotency_created ON idempotency (created_at);

COMMIT;
