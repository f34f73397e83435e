-- Verify maxbooster:audio_files on pg

BEGIN;

SELECT id, user_id, key, status, origin, file_name, content_type, size_bytes, etag, sha256,
       container, codec, duration_ms, sample_rate, channels, bit_depth, bit_rate, analysis,
       rejection, version, created_at, updated_at, deleted_at
FROM audio_files WHERE false;
SELECT 'audio_files_user'::regclass;

ROLLBACK;
