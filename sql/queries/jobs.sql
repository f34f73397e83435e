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

-- name: jobs_insert_many :exec
-- shard: place
-- args: rows jsonb
-- Promise several jobs at once, all of one shard: an array of objects with id, user_id, type,
-- payload and, where there are any, traceparent, delay_ms, parent_id, waits_for, dedup_key.
INSERT INTO jobs (id, user_id, type, payload, traceparent, run_at, parent_id, waits_for, dedup_key)
SELECT id, user_id, type, payload, traceparent,
       now() + coalesce(delay_ms, 0) * interval '1 millisecond',
       parent_id, coalesce(waits_for, 0), dedup_key
FROM jsonb_to_recordset($1) AS r (id uuid, user_id uuid, type text, payload jsonb, traceparent text,
                                  delay_ms bigint, parent_id uuid, waits_for int, dedup_key text);

-- name: jobs_dedup_lock :exec
-- shard: place
-- args: key text
-- One at a time decides about a key; until the end of the transaction.
SELECT pg_advisory_xact_lock(hashtextextended($1, 0));

-- name: jobs_dedup_find :one
-- shard: place
-- args: key text, type text, user_id uuid?, window_ms bigint
-- The newest job of a key that is not done, or was promised within window_ms.
SELECT id FROM jobs
WHERE dedup_key = $1 AND type = $2 AND user_id IS NOT DISTINCT FROM $3
  AND (status IN ('queued', 'processing')
       OR created_at > now() - $4::bigint * interval '1 millisecond')
ORDER BY created_at DESC
LIMIT 1;

-- name: jobs_debounce :one
-- shard: place
-- args: key text, type text, user_id uuid?, delay_ms bigint, payload jsonb
-- Push the job of a key back that has not begun, and give it the newer payload; but not past ten
-- times the delay since it was promised. Not found: there is none.
UPDATE jobs
SET payload = $5, updated_at = now(),
    run_at = least(now() + $4::bigint * interval '1 millisecond',
                   created_at + $4::bigint * interval '10 milliseconds')
WHERE id = (SELECT id FROM jobs
            WHERE dedup_key = $1 AND type = $2 AND user_id IS NOT DISTINCT FROM $3
              AND status = 'queued' AND attempts = 0
            ORDER BY created_at DESC
            LIMIT 1)
  AND status = 'queued' AND attempts = 0
RETURNING id;

-- name: jobs_state :one
-- shard: id
-- args: id uuid
-- Where a job stands, whoever owns it; due_in_ms is below 0 for one that is due.
SELECT status, fence, waits_for,
       (extract(epoch FROM run_at - now()) * 1000)::bigint AS due_in_ms
FROM jobs WHERE id = $1;

-- name: jobs_children :many
-- shard: parent_id
-- args: parent_id uuid, max_rows bigint
-- The children of a flow's parent, in the order in which they were promised.
SELECT id, type, status, result FROM jobs WHERE parent_id = $1 ORDER BY id LIMIT $2;

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

-- What hangs on a job that will not be completed: its parents, and theirs.
-- set: fail_parents above AS (
--   SELECT parent_id AS id FROM ended WHERE parent_id IS NOT NULL
--   UNION SELECT p.parent_id FROM jobs AS p JOIN above ON p.id = above.id
--   WHERE p.parent_id IS NOT NULL
--   ), parents AS (
--   UPDATE jobs SET status = 'failed', finished_at = now(), updated_at = now(),
--   error = '{"code":"child_failed","detail":"A part of this job was not completed."}'
--   FROM above WHERE jobs.id = above.id AND jobs.status = 'queued' RETURNING jobs.id)

-- name: jobs_cancel :one
-- shard: user_id
-- args: user_id uuid, id uuid
-- Cancel what is not finished, with all that belongs to it; the fence keeps a running worker from
-- writing. Not found: it was finished.
WITH RECURSIVE ended AS (
    UPDATE jobs
    SET status = 'cancelled', fence = fence + 1, finished_at = now(), updated_at = now()
    WHERE id = $2 AND user_id = $1 AND type <> 'email-send' AND status IN ('queued', 'processing')
    RETURNING id, parent_id, type, status, progress, attempts, result, error, created_at,
              started_at, finished_at, updated_at
), below AS (
    SELECT id FROM ended
    UNION SELECT c.id FROM jobs AS c JOIN below ON c.parent_id = below.id
), children AS (
    UPDATE jobs
    SET status = 'cancelled', fence = fence + 1, finished_at = now(), updated_at = now()
    FROM below
    WHERE jobs.id = below.id AND jobs.id <> $2 AND jobs.status IN ('queued', 'processing')
    RETURNING jobs.id
), :fail_parents
SELECT :owner_columns, true AS has_result FROM ended;

-- name: jobs_claim :one
-- shard: id
-- args: id uuid
-- Begin an attempt and get its fence. A job that is still processing lost its lease: that is no
-- attempt but a stall. Not found: it has ended, or is not due yet, or waits for its children.
UPDATE jobs
SET status = 'processing', fence = fence + 1, started_at = coalesce(started_at, now()),
    attempts = attempts + (status = 'queued')::int,
    stalled = stalled + (status = 'processing')::int,
    updated_at = now()
WHERE id = $1
  AND (status = 'processing' OR (status = 'queued' AND waits_for = 0 AND run_at <= now()))
RETURNING id, user_id, type, payload, traceparent, attempts, stalled, fence, created_at, run_at;

-- name: jobs_progress :exec
-- shard: id
-- args: id uuid, fence bigint, progress int
-- Report progress (it never goes back). No row: the attempt is over, stop. updated_at stays, since
-- it is in an index and this is written often.
UPDATE jobs SET progress = greatest(progress, $3)
WHERE id = $1 AND fence = $2 AND status = 'processing';

-- name: jobs_complete :one
-- shard: id
-- args: id uuid, fence bigint, result jsonb
-- End the job well; publishes the attempt's outputs. Its parent, if there is one, waits for one
-- less; parent_ready: for none any more. Not found: another attempt owns the job, or it is
-- cancelled.
WITH ended AS (
    UPDATE jobs
    SET status = 'completed', progress = 100, result = $3, error = NULL, finished_at = now(),
        updated_at = now()
    WHERE id = $1 AND fence = $2 AND status = 'processing'
    RETURNING id, parent_id
), parent AS (
    UPDATE jobs AS p SET waits_for = p.waits_for - 1, updated_at = now()
    FROM ended
    WHERE p.id = ended.parent_id AND p.waits_for > 0
    RETURNING p.id, p.user_id, p.type, p.waits_for = 0 AND p.status = 'queued' AS is_ready
)
SELECT ended.id, parent.id AS parent_id, parent.user_id AS parent_user_id,
       parent.type AS parent_type, coalesce(parent.is_ready, false) AS parent_ready
FROM ended LEFT JOIN parent ON true;

-- name: jobs_fail :one
-- shard: id
-- args: id uuid, fence bigint, error jsonb
-- End the job for good, with the reason; what waits for it fails with it. Not found: the fence is
-- old.
WITH RECURSIVE ended AS (
    UPDATE jobs SET status = 'failed', error = $3, finished_at = now(), updated_at = now()
    WHERE id = $1 AND fence = $2 AND status = 'processing'
    RETURNING id, parent_id
), :fail_parents
SELECT id FROM ended;

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
WHERE status IN ('queued', 'processing') AND waits_for = 0 AND updated_at < $1
  AND (updated_at, id) > (coalesce($2, '-infinity'::timestamptz),
                          coalesce($3, '00000000-0000-0000-0000-000000000000'::uuid))
ORDER BY updated_at, id
LIMIT $4;

-- name: jobs_dead :many
-- shard: place
-- args: type text, after uuid?, max_rows bigint
-- One shard's failed jobs of a type, behind one id; for operators.
SELECT id, user_id, type, attempts, stalled, error, finished_at
FROM jobs
WHERE status = 'failed' AND type = $1
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

-- name: jobs_drop :exec
-- shard: id
-- args: id uuid
-- Forget a failed job for good; no row: it has not failed.
DELETE FROM jobs WHERE id = $1 AND status = 'failed';

-- name: jobs_show :one
-- shard: id
-- args: id uuid
-- All of a job but its payload and result, for operators.
SELECT id, user_id, type, status, progress, attempts, stalled, fence, error, parent_id, waits_for,
       dedup_key, run_at, created_at, started_at, finished_at
FROM jobs WHERE id = $1;

-- name: jobs_log :exec
-- shard: id
-- args: id uuid, fence bigint, lines jsonb
-- What an attempt says: an array of texts.
INSERT INTO job_logs (job_id, fence, n, line)
SELECT $1, $2, t.n, left(t.line, 500)
FROM jsonb_array_elements_text($3) WITH ORDINALITY AS t (line, n);

-- name: jobs_logs :many
-- shard: id
-- args: id uuid, max_rows bigint
-- What a job has said, oldest first.
SELECT at, fence, line FROM job_logs WHERE job_id = $1 ORDER BY at, fence, n LIMIT $2;

-- name: jobs_expire :many
-- shard: place
-- args: done_before timestamptz, failed_before timestamptz, max_rows bigint
-- Delete jobs that ended long ago, failed ones by a date of their own; one row for each.
WITH old AS (
    SELECT id FROM jobs
    WHERE finished_at < greatest($1::timestamptz, $2)
      AND finished_at < CASE WHEN status = 'failed' THEN $2 ELSE $1 END
    ORDER BY finished_at
    LIMIT $3
), logs AS (
    DELETE FROM job_logs USING old WHERE job_logs.job_id = old.id
)
DELETE FROM jobs USING old WHERE jobs.id = old.id
RETURNING jobs.id;

-- name: jobs_figures :one
-- shard: place
-- args: type text
-- What one shard has of a type: since when its oldest due job waits (absent: none is), and its dead
-- letters.
SELECT (SELECT min(run_at) FROM jobs
        WHERE type = $1 AND status = 'queued' AND waits_for = 0 AND run_at <= now()) AS oldest_at,
       (SELECT count(*) FROM jobs WHERE type = $1 AND status = 'failed') AS dead;
