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

-- name: idempotency_claim :one
-- shard: user_id
-- args: user_id uuid, key text, fingerprint text, claim text, stale_ms bigint, ttl_ms bigint,
-- args: may_repeat bool
-- For work that does not fit into one transaction: take the key, in a transaction of its own, until
-- idempotency_finish. Status 102 is a claim, its body says whose. Over an old answer, over the same
-- request's claim where that is stale (its process died), and over its answer where it may be
-- repeated; old_status and old_body tell what was there. Not found: idempotency_peek tells why.
WITH old AS (SELECT status, body FROM idempotency WHERE user_id = $1 AND key = $2)
INSERT INTO idempotency AS i (user_id, key, fingerprint, status, body, headers)
VALUES ($1, $2, $3, 102, $4, '{}')
ON CONFLICT (user_id, key) DO UPDATE
SET fingerprint = excluded.fingerprint, status = excluded.status, body = excluded.body,
    headers = excluded.headers, created_at = now()
WHERE i.created_at <= now() - $6::bigint * interval '1 ms'
   OR (i.fingerprint = excluded.fingerprint
       AND CASE WHEN i.status = 102 THEN i.created_at <= now() - $5::bigint * interval '1 ms'
                ELSE $7 END)
RETURNING (SELECT status FROM old) AS old_status, (SELECT body FROM old) AS old_body;

-- name: idempotency_peek :one
-- shard: user_id
-- args: user_id uuid, key text
-- What a key holds: a claim (status 102) or an answer.
SELECT true AS locked, fingerprint, status, body, headers
FROM idempotency
WHERE user_id = $1 AND key = $2;

-- name: idempotency_finish :exec
-- shard: user_id
-- args: user_id uuid, key text, claim text, status int, body text, headers jsonb
-- The answer in place of the claim, in the transaction of the effect where it has one. No row: the
-- claim was taken over.
UPDATE idempotency SET status = $4, body = $5, headers = $6, created_at = now()
WHERE user_id = $1 AND key = $2 AND status = 102 AND body = $3;

-- name: idempotency_release :exec
-- shard: user_id
-- args: user_id uuid, key text, claim text
-- Give the key back: the request was refused.
DELETE FROM idempotency WHERE user_id = $1 AND key = $2 AND status = 102 AND body = $3;

-- name: idempotency_sweep :exec
-- shard: place
-- args: ttl_ms bigint, max_rows bigint
-- Delete up to so many of one shard's old answers.
DELETE FROM idempotency
WHERE (user_id, key) IN (SELECT user_id, key FROM idempotency
                         WHERE created_at < now() - $1::bigint * interval '1 ms'
                         ORDER BY created_at LIMIT $2);
