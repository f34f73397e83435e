-- Verify maxbooster:uploads on pg

BEGIN;

SELECT id, user_id, file_id, key, s3_upload_id, content_type, file_name, size_bytes, part_bytes,
       status, version, created_at, updated_at, expires_at
FROM uploads WHERE false;
SELECT 'uploads_open'::regclass;

ROLLBACK;
