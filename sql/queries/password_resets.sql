-- Password reset tokens, by their hash, on the user's shard (the token carries the user's id).

-- name: password_resets_insert :exec
-- shard: user_id
-- args: token_hash text, user_id uuid, expires_at timestamptz
-- A token that was sent to its user.
INSERT INTO password_resets (token_hash, user_id, expires_at) VALUES ($1, $2, $3);

-- name: password_resets_use :one
-- shard: user_id
-- args: token_hash text, user_id uuid
-- Use up a token that has not expired; not found: there is none. Twice at once: one finds it.
DELETE FROM password_resets WHERE token_hash = $1 AND user_id = $2 AND expires_at > now()
RETURNING token_hash, user_id, expires_at;

-- name: password_resets_drop :exec
-- shard: user_id
-- args: user_id uuid
-- Drop all tokens of a user.
DELETE FROM password_resets WHERE user_id = $1;

-- name: password_resets_sweep :exec
-- shard: place
-- args: max_rows bigint
-- Delete up to so many of one shard's expired tokens.
DELETE FROM password_resets
WHERE token_hash IN (SELECT token_hash FROM password_resets WHERE expires_at < now()
                     ORDER BY expires_at LIMIT $1);
