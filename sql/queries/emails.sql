-- The index of e-mail addresses, on the shard of the address (id_place_of_email). Addresses are
-- lower case. The two steps and their recovery: README.md.

-- name: emails_reserve :one
-- shard: place
-- args: email text, user_id uuid
-- First step: reserve the address; not found: somebody has it (ask emails_find).
INSERT INTO emails (email, user_id) VALUES ($1, $2)
ON CONFLICT (email) DO NOTHING
RETURNING email, user_id, active, reserved_at;

-- name: emails_find :one
-- shard: place
-- args: email text, stale_ms bigint
-- Who holds the address; stale: reserved that long ago and still not active.
SELECT email, user_id, active, reserved_at,
       NOT active AND reserved_at < now() - $2::bigint * interval '1 ms' AS stale
FROM emails
WHERE email = $1;

-- name: emails_activate :one
-- shard: place
-- args: email text, user_id uuid
-- Last step: the users row is there. May be repeated; not found: the reservation was taken over.
UPDATE emails SET active = true WHERE email = $1 AND user_id = $2
RETURNING email, user_id, active, reserved_at;

-- name: emails_take_over :one
-- shard: place
-- args: email text, old_user_id uuid, new_user_id uuid, stale_ms bigint
-- Take a stale reservation over, after the old user's row was looked for and not found; not found:
-- lost the race.
UPDATE emails SET user_id = $3, reserved_at = now()
WHERE email = $1 AND user_id = $2 AND NOT active
  AND reserved_at < now() - $4::bigint * interval '1 ms'
RETURNING email, user_id, active, reserved_at;

-- name: emails_release :exec
-- shard: place
-- args: email text, user_id uuid
-- Give a reservation back whose users row was not made.
DELETE FROM emails WHERE email = $1 AND user_id = $2 AND NOT active;

-- name: emails_stale :many
-- shard: place
-- args: stale_ms bigint, max_rows bigint
-- One shard's stale reservations, oldest first, for the sweep.
SELECT email, user_id
FROM emails
WHERE NOT active AND reserved_at < now() - $1::bigint * interval '1 ms'
ORDER BY reserved_at, email
LIMIT $2;
