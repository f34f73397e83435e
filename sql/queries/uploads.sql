-- Multipart uploads in the making, on their owner's shard. open -> completed | aborted.

-- set: upload_columns id, file_id, key, s3_upload_id, content_type, file_name, size_bytes,
--   part_bytes, (size_bytes + part_bytes - 1) / part_bytes AS part_count, status, version,
--   created_at, updated_at, expires_at

-- name: uploads_insert :one
-- shard: user_id
-- args: id uuid, user_id uuid, file_id uuid, key text, s3_upload_id text, content_type text,
-- args: file_name text, size_bytes bigint, part_bytes bigint, expires_at timestamptz
-- An upload that S3 has begun.
INSERT INTO uploads (id, user_id, file_id, key, s3_upload_id, content_type, file_name, size_bytes,
                     part_bytes, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
RETURNING :upload_columns;

-- name: uploads_by_id :one
-- shard: user_id
-- args: user_id uuid, id uuid
-- An upload of its owner.
SELECT :upload_columns FROM uploads WHERE id = $2 AND user_id = $1;

-- name: uploads_complete :one
-- shard: user_id
-- args: user_id uuid, id uuid
-- S3 has made the object; not found: the upload was not open.
UPDATE uploads SET status = 'completed', version = version + 1, updated_at = now()
WHERE id = $2 AND user_id = $1 AND status = 'open'
RETURNING :upload_columns;

-- name: uploads_abort :exec
-- shard: user_id
-- args: user_id uuid, id uuid
-- The parts are dropped; no row: the upload was not open.
UPDATE uploads SET status = 'aborted', version = version + 1, updated_at = now()
WHERE id = $2 AND user_id = $1 AND status = 'open';

-- name: uploads_expired :many
-- shard: place
-- args: max_rows bigint
-- One shard's open uploads past their time, oldest first, for the sweep.
SELECT id, user_id, key, s3_upload_id
FROM uploads
WHERE status = 'open' AND expires_at < now()
ORDER BY expires_at, id
LIMIT $1;
