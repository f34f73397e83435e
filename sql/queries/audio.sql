-- Audio files, on their owner's shard. pending -> uploaded -> verified | rejected; every step is
-- one conditional UPDATE, so that two callers cannot both take it.

-- set: audio_columns id, key, status, origin, file_name, content_type, size_bytes, etag,
--   sha256, container, codec, duration_ms, sample_rate, channels, bit_depth, bit_rate, analysis,
--   waveform, rejection, version, created_at, updated_at

-- name: audio_insert :one
-- shard: user_id
-- args: id uuid, user_id uuid, key text, file_name text, content_type text, size_bytes bigint
-- A file that its owner is going to upload.
INSERT INTO audio_files (id, user_id, key, file_name, content_type, size_bytes)
VALUES ($1, $2, $3, $4, $5, $6)
RETURNING :audio_columns;

-- name: audio_insert_result :exec
-- shard: user_id
-- args: id uuid, user_id uuid, key text, origin text, file_name text, content_type text,
-- args: size_bytes bigint, etag text, sha256 text, container text, codec text, duration_ms bigint,
-- args: sample_rate bigint, channels bigint, bit_depth bigint, bit_rate bigint
-- A file that a job has made (origin convert or mix): verified from the start.
INSERT INTO audio_files (id, user_id, key, origin, file_name, content_type, size_bytes, etag,
                         sha256, container, codec, duration_ms, sample_rate, channels, bit_depth,
                         bit_rate, status)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, 'verified');

-- name: audio_by_id :one
-- shard: user_id
-- args: user_id uuid, id uuid
-- A file of its owner.
SELECT :audio_columns FROM audio_files WHERE id = $2 AND user_id = $1 AND deleted_at IS NULL;

-- name: audio_by_ids :many
-- shard: user_id
-- args: user_id uuid, ids jsonb
-- The files of their owner whose ids are in a JSON array, up to the tracks of a mix, in no order.
SELECT :audio_columns
FROM audio_files
WHERE user_id = $1 AND deleted_at IS NULL
  AND id = ANY (ARRAY(SELECT jsonb_array_elements_text($2)::uuid))
LIMIT 64;

-- name: audio_by_key :one
-- shard: user_id
-- args: user_id uuid, key text
-- A file of its owner, by its S3 key.
SELECT :audio_columns FROM audio_files WHERE key = $2 AND user_id = $1 AND deleted_at IS NULL;

-- name: audio_list :many
-- shard: user_id
-- args: user_id uuid, after uuid?, max_rows bigint
-- A page of a user's files, newest first, behind one id.
SELECT :audio_columns
FROM audio_files
WHERE user_id = $1 AND deleted_at IS NULL
  AND id < coalesce($2, 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid)
ORDER BY id DESC
LIMIT $3;

-- name: audio_mark_uploaded :one
-- shard: user_id
-- args: user_id uuid, id uuid, etag text
-- The object is in S3 and has the announced size; not found: the file was decided before.
UPDATE audio_files
SET status = 'uploaded', etag = $3, version = version + 1, updated_at = now()
WHERE id = $2 AND user_id = $1 AND status IN ('pending', 'uploaded') AND deleted_at IS NULL
RETURNING :audio_columns;

-- name: audio_mark_verified :one
-- shard: user_id
-- args: user_id uuid, id uuid, etag text, size_bytes bigint, container text, codec text,
-- args: duration_ms bigint, sample_rate bigint, channels bigint, bit_depth bigint, bit_rate bigint
-- The content was probed and is audio; not found: the file was decided before.
UPDATE audio_files
SET status = 'verified', etag = $3, size_bytes = $4, container = $5, codec = $6, duration_ms = $7,
    sample_rate = $8, channels = $9, bit_depth = $10, bit_rate = $11, version = version + 1,
    updated_at = now()
WHERE id = $2 AND user_id = $1 AND status IN ('pending', 'uploaded') AND deleted_at IS NULL
RETURNING :audio_columns;

-- name: audio_mark_rejected :one
-- shard: user_id
-- args: user_id uuid, id uuid, etag text, rejection jsonb
-- The content is not usable, and why; not found: the file was decided before.
UPDATE audio_files
SET status = 'rejected', etag = $3, rejection = $4, version = version + 1, updated_at = now()
WHERE id = $2 AND user_id = $1 AND status IN ('pending', 'uploaded') AND deleted_at IS NULL
RETURNING :audio_columns;

-- name: audio_set_analysis :exec
-- shard: user_id
-- args: user_id uuid, id uuid, sha256 text, analysis jsonb, waveform jsonb
-- What a job found out about a verified file, and the waveform that it has made with it; an absent
-- sha256 leaves the one that is there.
-- Derived from bytes that do not change, so the version that its owner holds stays good.
UPDATE audio_files
SET analysis = $4, waveform = $5, sha256 = coalesce($3, sha256)
WHERE id = $2 AND user_id = $1 AND status = 'verified' AND deleted_at IS NULL;

-- name: audio_rename :one
-- shard: user_id
-- args: user_id uuid, id uuid, version bigint, file_name text
-- Change the label of that version of the file; not found: it has changed meanwhile.
UPDATE audio_files SET file_name = $4, version = version + 1, updated_at = now()
WHERE id = $2 AND user_id = $1 AND version = $3 AND deleted_at IS NULL
RETURNING :audio_columns;

-- name: audio_soft_delete :one
-- shard: user_id
-- args: user_id uuid, id uuid, version bigint
-- Hide that version of the file (absent: any) for good; its objects are swept later.
UPDATE audio_files SET deleted_at = now(), version = version + 1, updated_at = now()
WHERE id = $2 AND user_id = $1 AND version = coalesce($3, version) AND deleted_at IS NULL
RETURNING :audio_columns;

-- name: audio_delete :exec
-- shard: user_id
-- args: user_id uuid, id uuid
-- Drop the row, after its objects are gone.
DELETE FROM audio_files WHERE id = $2 AND user_id = $1;
