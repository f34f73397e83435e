-- Answers by Idempotency-Key, on the user's shard, stored in the transaction of the effect.

-- name: idempotency_begin :one
-- shard: user_id
-- args: user_id uuid, key text, ttl_ms bigint
-- First statement of the transaction: locked is false while the first request with this key runs;
-- status is absent where there is no answer yet. The lock ends with the transaction. Should the
-- first commit between this statement's snapshot and its lock, the answer is missed here, and
-- idempotency_store fails with a conflict: no double effect.
SELECT l.locked, i.fingerprint, i.status, i.body, i.headers
FROM (SELECT pg_try_advisory_xact_lock(
              hashtextextended($1::uuid::text || ' ' || $2, 0)) AS locked) AS l
LEFT JOIN idempotency AS i
       ON i.user_id = $1 AND i.key = $2 AND i.created_at > now() - $3::bigint * interval '1 ms';

-- name: idempotency_expire :exec
-- shard: user_id
-- args: user_id uuid, key text, ttl_ms bigint
-- Drop an answer that is too old, so that its key is free again; within the transaction.
DELETE FROM idempotency
WHERE user_id = $1 AND key = $2 AND created_at <= now() - $3::bigint * interval '1 ms';

-- name: idempotency_store :exec
-- shard: user_id
-- args: user_id uuid, key text, fingerprint text, status int, body text, headers jsonb
-- Last statement before the commit: the answer. A conflict means that another request with this key
-- was first.
INSERT INTO idempotency (user_id, key, fingerprint, status, body, headers)
VALUES ($1, $2, $3, $4, $5, $6);

-- name: idempotency_sweep :exec
-- shard: place
-- args: ttl_ms bigint, max_rows bigint
-- Delete up to so many of one shard's old answers.
DELETE FROM idempotency
WHERE (user_id, key) IN (SELECT user_id, key FROM idempotency
                         WHERE created_at < now() - $1::bigint * interval '1 ms'
                         ORDER BY created_at LIMIT $2);
