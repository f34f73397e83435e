-- Jobs, on their owner's shard; a job's id names that shard too. Writes of a running job carry the
-- fence of its claim: with an older fence, or after a cancel, they change nothing and return
-- nothing.

-- set: job_columns id, user_id, type, status, payload, progress, attempts, stalled, fence, result,
--   error, traceparent, run_at, created_at, started_at, finished_at, updated_at

-- What an owner sees: his jobs without the mails sent to him. A job has no version column: it
-- changes
-- whenever updated_at or progress does.
-- set: owner_columns id, type, status, progress, attempts, result, error, created_at, started_at,
--   finished_at, (extract(epoch FROM updated_at) * 1000000)::bigint + progress AS version

-- name: jobs_insert :exec
-- shard: id
-- args: id uuid, user_id uuid?, type text, payload jsonb, traceparent text, run_at timestamptz
-- A promised job (absent run_at: due now).
INSERT INTO jobs (id, user_id, type, payload, traceparent, run_at)
VALUES ($1, $2, $3, $4, $5, coalesce($6, now()));

-- name: jobs_state :one
-- shard: id
-- args: id uuid
-- Where a job stands, whoever owns it.
SELECT status, fence FROM jobs WHERE id = $1;

-- name: jobs_by_owner :one
-- shard: user_id
-- args: user_id uuid, id uuid
-- A job of its owner.
SELECT :owner_columns, true AS has_result FROM jobs
WHERE id = $2 AND user_id = $1 AND type <> 'email-send';

-- name: jobs_list :many
-- shard: user_id
-- args: user_id uuid, after uuid?, max_rows bigint, max_result_bytes bigint
-- A page of a user's jobs, newest first, behind one id. Results come until they add up to
-- max_result_bytes; from there on has_result is false.
WITH page AS (
    SELECT *, octet_length(coalesce(result, 'null')::text) AS result_bytes
    FROM jobs
    WHERE user_id = $1 AND type <> 'email-send'
      AND id < coalesce($2, 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid)
    ORDER BY id DESC
    LIMIT $3
), summed AS (
    SELECT id, type, status, progress, attempts, result, error, created_at, started_at, finished_at,
           updated_at,
           sum(result_bytes) OVER (ORDER BY id DESC) - result_bytes < $4 AS has_result
    FROM page
)
SELECT id, type, status, progress, attempts, CASE WHEN has_result THEN result END AS result, error,
       created_at, started_at, finished_at,
       (extract(epoch FROM updated_at) * 1000000)::bigint + progress AS version, has_result
FROM summed
ORDER BY id DESC;

-- name: jobs_cancel :one
-- shard: user_id
-- args: user_id uuid, id uuid
-- Cancel what is not finished; the fence keeps a running worker from writing. Not found: it was
-- finished.
UPDATE jobs
SET status = 'cancelled', fence = fence + 1, finished_at = now(), updated_at = now()
WHERE id = $2 AND user_id = $1 AND type <> 'email-send' AND status IN ('queued', 'processing')
RETURNING :owner_columns, true AS has_result;

-- name: jobs_claim :one
-- shard: id
-- args: id uuid
-- Begin an attempt and get its fence. A job that is still processing lost its lease: that is no
-- attempt but a stall.
UPDATE jobs
SET status = 'processing', fence = fence + 1, started_at = coalesce(started_at, now()),
    attempts = attempts + (status = 'queued')::int,
    stalled = stalled + (status = 'processing')::int,
    updated_at = now()
WHERE id = $1 AND status IN ('queued', 'processing')
RETURNING id, user_id, type, payload, traceparent, attempts, stalled, fence, created_at;

-- name: jobs_progress :exec
-- shard: id
-- args: id uuid, fence bigint, progress int
-- Report progress (it never goes back). No row: the attempt is over, stop. updated_at stays, since
-- it is in an index and this is written often.
UPDATE jobs SET progress = greatest(progress, $3)
WHERE id = $1 AND fence = $2 AND status = 'processing';

-- name: jobs_complete :exec
-- shard: id
-- args: id uuid, fence bigint, result jsonb
-- End the job well; publishes the attempt's outputs. No row: another attempt owns the job, or it is
-- cancelled.
UPDATE jobs
SET status = 'completed', progress = 100, result = $3, error = NULL, finished_at = now(),
    updated_at = now()
WHERE id = $1 AND fence = $2 AND status = 'processing';

-- name: jobs_fail :exec
-- shard: id
-- args: id uuid, fence bigint, error jsonb
-- End the job for good, with the reason.
UPDATE jobs SET status = 'failed', error = $3, finished_at = now(), updated_at = now()
WHERE id = $1 AND fence = $2 AND status = 'processing';

-- name: jobs_retry :exec
-- shard: id
-- args: id uuid, fence bigint, error jsonb, run_at timestamptz
-- Back to the queue after a failed attempt, due at run_at; the reason is kept for the owner to see.
UPDATE jobs SET status = 'queued', error = $3, run_at = $4, updated_at = now()
WHERE id = $1 AND fence = $2 AND status = 'processing';

-- name: jobs_release :exec
-- shard: id
-- args: id uuid, fence bigint
-- Back to the queue without counting the attempt: the worker is stopping.
UPDATE jobs
SET status = 'queued', attempts = greatest(attempts - 1, 0), run_at = now(), updated_at = now()
WHERE id = $1 AND fence = $2 AND status = 'processing';

-- name: jobs_postpone :exec
-- shard: id
-- args: id uuid, fence bigint, run_at timestamptz
-- Back to the queue because something that the work needs is not there now: no attempt, but a
-- stall.
UPDATE jobs
SET status = 'queued', stalled = stalled + 1, attempts = greatest(attempts - 1, 0),
    run_at = $3, updated_at = now()
WHERE id = $1 AND fence = $2 AND status = 'processing';

-- name: jobs_unfinished :many
-- shard: place
-- args: before timestamptz, after_updated_at timestamptz, after_id uuid?, max_rows bigint
-- One shard's unfinished jobs that nothing has touched since before, behind (after_updated_at,
-- after_id); absent: from the start.
SELECT id, user_id, type, status, run_at, updated_at
FROM jobs
WHERE status IN ('queued', 'processing') AND updated_at < $1
  AND (updated_at, id) > (coalesce($2, '-infinity'::timestamptz),
                          coalesce($3, '00000000-0000-0000-0000-000000000000'::uuid))
ORDER BY updated_at, id
LIMIT $4;

-- name: jobs_dead :many
-- shard: place
-- args: type text, after uuid?, max_rows bigint
-- One shard's failed jobs of a type (absent: any), behind one id; for operators.
SELECT id, user_id, type, attempts, stalled, error, finished_at
FROM jobs
WHERE status = 'failed' AND type = coalesce($1, type)
  AND id > coalesce($2, '00000000-0000-0000-0000-000000000000'::uuid)
ORDER BY id
LIMIT $3;

-- name: jobs_revive :one
-- shard: id
-- args: id uuid
-- Queue a failed job anew, with all its attempts; not found: it has not failed.
UPDATE jobs
SET status = 'queued', attempts = 0, stalled = 0, progress = 0, error = NULL, finished_at = NULL,
    run_at = now(), updated_at = now()
WHERE id = $1 AND status = 'failed'
RETURNING id, user_id, type;
