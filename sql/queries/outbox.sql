-- Domain events on their user's shard: added in the transaction of the change, relayed afterwards.

-- name: outbox_add :one
-- shard: user_id
-- args: id uuid, user_id uuid, type text, version int, traceparent text, data jsonb
-- Add an event to the open transaction, as its last write: the user's other writers of events wait
-- from here until the commit.
WITH head AS (
    INSERT INTO outbox_heads (user_id, seq) VALUES ($2, 1)
    ON CONFLICT (user_id) DO UPDATE SET seq = outbox_heads.seq + 1
    RETURNING seq
)
INSERT INTO outbox (id, user_id, seq, type, version, traceparent, data)
SELECT $1, $2, head.seq, $3, $4, $5, $6 FROM head
RETURNING seq;

-- name: outbox_waiting :many
-- shard: place
-- args: after_user uuid?, after_seq bigint, max_rows bigint
-- One database's events that are not relayed, by user and order, behind (after_user, after_seq).
SELECT id, user_id, seq, type, version, traceparent, data, created_at
FROM outbox
WHERE relayed_at IS NULL AND parked_at IS NULL
  AND (user_id, seq) > (coalesce($1, '00000000-0000-0000-0000-000000000000'::uuid),
                        coalesce($2::bigint, 0))
ORDER BY user_id, seq
LIMIT $3;

-- name: outbox_relayed :exec
-- shard: place
-- args: ids jsonb
-- The bus has taken the events whose ids are in a JSON array.
UPDATE outbox SET relayed_at = clock_timestamp()
WHERE id = ANY (ARRAY(SELECT jsonb_array_elements_text($1)::uuid)) AND relayed_at IS NULL;

-- name: outbox_park :exec
-- shard: place
-- args: id uuid, reason text
-- The bus will never take this event: out of the way of the others, for a person to look at.
UPDATE outbox SET parked_at = clock_timestamp(), reason = $2
WHERE id = $1 AND relayed_at IS NULL AND parked_at IS NULL;

-- name: outbox_again :exec
-- shard: place
-- args: window_ms bigint
-- The bus has lost what it took in that time: relay it once more.
UPDATE outbox SET relayed_at = NULL
WHERE relayed_at > clock_timestamp() - $1::bigint * interval '1 ms';

-- name: outbox_depth :one
-- shard: place
-- args: max_rows bigint
-- How many events of one database wait (counted up to max_rows), since when the oldest of these
-- does, and how many are parked.
SELECT count(*) AS waiting, min(created_at) AS oldest_at,
       (SELECT count(*) FROM outbox WHERE parked_at IS NOT NULL) AS parked
FROM (SELECT created_at FROM outbox
      WHERE relayed_at IS NULL AND parked_at IS NULL
      ORDER BY user_id, seq LIMIT $1) AS waiting_rows;

-- name: outbox_sweep :exec
-- shard: place
-- args: keep_ms bigint, max_rows bigint
-- Delete up to so many of one database's events that were relayed before that time.
DELETE FROM outbox
WHERE id IN (SELECT id FROM outbox
             WHERE relayed_at < now() - $1::bigint * interval '1 ms'
             ORDER BY relayed_at LIMIT $2);
