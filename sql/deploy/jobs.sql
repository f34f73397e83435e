-- Deploy maxbooster:jobs to pg

BEGIN;

-- What was promised with a 202. The queue in Redis may be lost; this row is the job.
-- fence goes up with each claim: only the holder of the latest one may write.
CREATE TABLE jobs (
    id          uuid PRIMARY KEY,
    user_id     uuid,
    type        text NOT NULL CHECK (char_length(type) BETWEEN 1 AND 64),
    status      text NOT NULL DEFAULT 'queued'
                CHECK (status IN ('queued', 'processing', 'completed', 'failed', 'cancelled')),
    payload     jsonb NOT NULL,
    progress    integer NOT NULL DEFAULT 0 CHECK (progress BETWEEN 0 AND 100),
    attempts    integer NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    stalled     integer NOT NULL DEFAULT 0 CHECK (stalled >= 0),
    fence       bigint NOT NULL DEFAULT 0 CHECK (fence >= 0),
    result      jsonb,
    error       jsonb,
    traceparent text,
    run_at      timestamptz NOT NULL DEFAULT now(),
    created_at  timestamptz NOT NULL DEFAULT now(),
    started_at  timestamptz,
    finished_at timestamptz,
    updated_at  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT jobs_finished CHECK ((finished_at IS NOT NULL) =
                                    (status IN ('completed', 'failed', 'cancelled')))
);

-- A user's list, newest first.
CREATE INDEX jobs_user ON jobs (user_id, id DESC);

-- The scheduler's scan for what Redis lost; finished jobs are not in it.
CREATE INDEX jobs_unfinished ON jobs (updated_at, id) WHERE status IN ('queued', 'processing');

COMMIT;
