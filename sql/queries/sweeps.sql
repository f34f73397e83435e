-- What the scheduler tidies up, shard by shard. Every statement is bounded and may be repeated.

-- name: sweep_files :many
-- shard: place
-- args: before timestamptz, max_rows bigint
-- Files that nobody will have: never completed or refused since before, or deleted by their owner.
-- A multipart upload that is open keeps its file. Refusing them first keeps a late completion from
-- verifying a file whose object is about to go; the rows stay to be found again until dropped.
UPDATE audio_files
SET status = CASE WHEN status = 'verified' THEN status ELSE 'rejected' END
WHERE id IN (SELECT f.id
             FROM audio_files AS f
             WHERE (f.status <> 'verified' OR f.deleted_at IS NOT NULL) AND f.updated_at < $1
               AND NOT EXISTS (SELECT FROM uploads AS u
                               WHERE u.file_id = f.id AND u.status = 'open'
                                 AND u.expires_at > now())
             ORDER BY f.updated_at, f.id
             LIMIT $2
             FOR UPDATE SKIP LOCKED)
RETURNING id, user_id, key;

-- name: sweep_file_drop :exec
-- shard: user_id
-- args: user_id uuid, id uuid
-- Drop the row of such a file, after its objects are gone.
DELETE FROM audio_files
WHERE id = $2 AND user_id = $1 AND (status = 'rejected' OR deleted_at IS NOT NULL);

-- name: sweep_users_exists :one
-- shard: id
-- args: id uuid
-- Is there such a user?
SELECT EXISTS (SELECT FROM users WHERE id = $1) AS found;

-- name: sweep_upload_close :exec
-- shard: user_id
-- args: user_id uuid, id uuid
-- The parts of an upload past its time are dropped.
UPDATE uploads SET status = 'aborted', version = version + 1, updated_at = now()
WHERE id = $2 AND user_id = $1 AND status = 'open';

-- name: sweep_email_activate :exec
-- shard: place
-- args: email text, user_id uuid
-- The users row is there: the registration died before its last step.
UPDATE emails SET active = true WHERE email = $1 AND user_id = $2;
