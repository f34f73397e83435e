-- Users, on the shard of their id. E-mail uniqueness is emails.sql's.

-- set: user_columns id, email, name, role, password_hash, version, created_at, updated_at

-- name: users_insert :one
-- shard: id
-- args: id uuid, email text, name text, role text, password_hash text
-- Insert a user; his e-mail address has been reserved before.
INSERT INTO users (id, email, name, role, password_hash) VALUES ($1, $2, $3, $4, $5)
RETURNING :user_columns;

-- name: users_by_id :one
-- shard: id
-- args: id uuid
-- The whole user, his password hash included.
SELECT :user_columns FROM users WHERE id = $1;

-- name: users_profile :one
-- shard: id
-- args: id uuid
-- What anyone may see of a user.
SELECT id, name, role, created_at FROM users WHERE id = $1;

-- name: users_set_name :one
-- shard: id
-- args: id uuid, version bigint, name text
-- Change the name of that version of the user; not found: it has changed meanwhile.
UPDATE users SET name = $3, version = version + 1, updated_at = now()
WHERE id = $1 AND version = $2
RETURNING :user_columns;

-- name: users_set_password :one
-- shard: id
-- args: id uuid, version bigint, password_hash text
-- Change the password of that version of the user (absent: of any); not found: it has changed
-- meanwhile.
UPDATE users SET password_hash = $3, version = version + 1, updated_at = now()
WHERE id = $1 AND version = coalesce($2, version)
RETURNING :user_columns;

-- name: users_set_role :one
-- shard: id
-- args: id uuid, role text
-- Make a user an admin or an artist; for the operator's tool.
UPDATE users SET role = $2, version = version + 1, updated_at = now() WHERE id = $1
RETURNING :user_columns;

-- name: users_delete :exec
-- shard: id
-- args: id uuid
-- Take back an insert whose e-mail reservation was lost to another.
DELETE FROM users WHERE id = $1;

-- name: users_search :many
-- shard: place
-- args: part text, after uuid?, max_rows bigint
-- One shard's users whose name contains the text (its wildcards taken literally), by id, behind one
-- id.
SELECT id, name, role, created_at
FROM users
WHERE lower(name) LIKE
          '%' || replace(replace(replace(lower($1), '\', '\\'), '%', '\%'), '_', '\_') || '%'
  AND id > coalesce($2, '00000000-0000-0000-0000-000000000000'::uuid)
ORDER BY id
LIMIT $3;
