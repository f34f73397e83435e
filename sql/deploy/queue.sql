-- Deploy maxbooster:queue to pg

BEGIN;

-- Flows: a parent waits until none of its children is left to do; all of them share its place.
ALTER TABLE jobs ADD COLUMN parent_id uuid;
ALTER TABLE jobs ADD COLUMN waits_for integer NOT NULL DEFAULT 0;
-- What must not be promised twice: until it is done, within a time, or pushed back instead.
ALTER TABLE jobs ADD COLUMN dedup_key text;

-- What a job said while it ran; goes with its job.
CREATE TABLE job_logs (
    job_id uuid NOT NULL,
    at     timestamptz NOT NULL DEFAULT now(),
    fence  bigint NOT NULL,
    n      integer NOT NULL,
    line   text NOT NULL CHECK (char_length(line) <= 500),
    PRIMARY KEY (job_id, at, fence, n)
);

-- Jobs by the clock, all on shard 0 (home is an id of place 0). next_at is the tick that comes
-- next: who moves it on makes that tick's job, in one transaction.
CREATE TABLE crons (
    name       text CHECK (char_length(name) BETWEEN 1 AND 64),
    home       uuid NOT NULL DEFAULT '00000000-0000-8000-8000-000000000000',
    type       text NOT NULL CHECK (char_length(type) BETWEEN 1 AND 64),
    schedule   text NOT NULL CHECK (char_length(schedule) BETWEEN 1 AND 100),
    zone       text NOT NULL DEFAULT 'UTC' CHECK (char_length(zone) BETWEEN 1 AND 64),
    catch_up   text NOT NULL DEFAULT 'one' CHECK (catch_up IN ('none', 'one', 'all')),
    payload    jsonb NOT NULL DEFAULT '{}',
    is_paused  boolean NOT NULL DEFAULT false,
    next_at    timestamptz,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (name, home)
);

-- The leader's number, on shard 0. A leader that has been followed by another writes nothing more.
CREATE TABLE scheduler_fence (
    name  text,
    home  uuid NOT NULL DEFAULT '00000000-0000-8000-8000-000000000000',
    fence bigint NOT NULL,
    PRIMARY KEY (name, home)
);

-- Addresses that get no mail, on the shard of the address.
CREATE TABLE email_suppressions (
    email      text PRIMARY KEY CHECK (char_length(email) BETWEEN 3 AND 320),
    reason     text NOT NULL CHECK (char_length(reason) BETWEEN 1 AND 500),
    created_at timestamptz NOT NULL DEFAULT now()
);

INSERT INTO shard_tables (name, placed_by, column_name) VALUES
    ('job_logs', 'owned', 'job_id'),
    ('crons', 'owned', 'home'),
    ('scheduler_fence', 'owned', 'home'),
    ('email_suppressions', 'email', 'email');

COMMIT;
