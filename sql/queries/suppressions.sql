-- Addresses that get no mail, each on the shard of the address.

-- name: suppressions_find :one
-- shard: place
-- args: email text
-- Why an address gets no mail; not found: it does.
SELECT reason, created_at FROM email_suppressions WHERE email = $1;

-- name: suppressions_add :exec
-- shard: place
-- args: email text, reason text
-- From now on no mail; the first reason stays.
INSERT INTO email_suppressions (email, reason) VALUES ($1, left($2, 500))
ON CONFLICT (email) DO NOTHING;

-- name: suppressions_drop :exec
-- shard: place
-- args: email text
-- Mail again.
DELETE FROM email_suppressions WHERE email = $1;

-- name: suppressions_list :many
-- shard: place
-- args: after text, max_rows bigint
-- One shard's addresses that get no mail, behind one address.
SELECT email, reason, created_at FROM email_suppressions WHERE email > $1 ORDER BY email LIMIT $2;
