-- Deploy maxbooster:outbox to pg

BEGIN;

-- What has happened, written in the transaction in which it happens and relayed to the event bus
-- afterwards (docs/internals/outbox.md). seq counts a user's events without a gap.
CREATE TABLE outbox (
    id          uuid PRIMARY KEY,
    user_id     uuid NOT NULL,
    seq         bigint NOT NULL CHECK (seq > 0),
    type        text NOT NULL CHECK (char_length(type) BETWEEN 1 AND 64),
    version     integer NOT NULL CHECK (version > 0),
    traceparent text CHECK (char_length(traceparent) <= 55),
    data        jsonb NOT NULL CHECK (jsonb_typeof(data) = 'object'),
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    relayed_at  timestamptz,
    parked_at   timestamptz,
    reason      text CHECK ((reason IS NULL) = (parked_at IS NULL)),
    CONSTRAINT outbox_order UNIQUE (user_id, seq)
);

-- The relay's walk: each user's events in their order. Hardly ever more than a few rows.
CREATE INDEX outbox_waiting ON outbox (user_id, seq)
    WHERE relayed_at IS NULL AND parked_at IS NULL;

-- The sweep of what was relayed, and the search for what the bus has lost.
CREATE INDEX outbox_relayed ON outbox (relayed_at) WHERE relayed_at IS NOT NULL;

-- The count of what the bus refused.
CREATE INDEX outbox_parked ON outbox (parked_at) WHERE parked_at IS NOT NULL;

-- Number of each user's newest event. Writers of one user's events take turns here until they
-- commit, so that the order of seq is the order of the commits.
CREATE TABLE outbox_heads (
    user_id uuid PRIMARY KEY,
    seq     bigint NOT NULL CHECK (seq > 0)
) WITH (fillfactor = 50);

-- A job is promised, ends and takes others with it by many statements: one trigger tells of all.
-- What a job's user never sees (mails, jobs without a user) is not told.
CREATE FUNCTION outbox_tell_job() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    body jsonb := jsonb_build_object('jobId', NEW.id, 'type', NEW.type);
    number bigint;
BEGIN
    IF NEW.status IN ('completed', 'failed') THEN
        body := body || jsonb_build_object('attempts', NEW.attempts);
    END IF;
    IF NEW.status = 'failed' THEN
        body := body || jsonb_build_object('code', coalesce(NEW.error ->> 'code', 'internal'));
    END IF;
    INSERT INTO outbox_heads (user_id, seq) VALUES (NEW.user_id, 1)
    ON CONFLICT (user_id) DO UPDATE SET seq = outbox_heads.seq + 1
    RETURNING seq INTO number;
    -- An owned id: the job's place in front, version 8, the rest by chance.
    INSERT INTO outbox (id, user_id, seq, type, version, traceparent, data)
    VALUES (overlay(overlay(gen_random_uuid()::text PLACING left(NEW.id::text, 8) FROM 1)
                    PLACING '8' FROM 15)::uuid,
            NEW.user_id, number, 'job.' || NEW.status, 1, left(NEW.traceparent, 55), body);
    RETURN NULL;
END
$$;
CREATE TRIGGER outbox_job_promised AFTER INSERT ON jobs FOR EACH ROW
    WHEN (NEW.status = 'queued' AND NEW.user_id IS NOT NULL AND NEW.type <> 'email-send')
    EXECUTE FUNCTION outbox_tell_job();
CREATE TRIGGER outbox_job_ended AFTER UPDATE OF status ON jobs FOR EACH ROW
    WHEN ((NEW.status IN ('completed', 'failed', 'cancelled') AND NEW.status <> OLD.status
           OR NEW.status = 'queued' AND OLD.status = 'failed')
          AND NEW.user_id IS NOT NULL AND NEW.type <> 'email-send')
    EXECUTE FUNCTION outbox_tell_job();

INSERT INTO shard_tables (name, placed_by, column_name) VALUES
    ('outbox', 'owned', 'id'),
    ('outbox_heads', 'user', 'user_id');

COMMIT;
