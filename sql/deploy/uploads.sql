-- Deploy maxbooster:uploads to pg

BEGIN;

-- A multipart upload in the making; it ends in the audio_files row file_id.
CREATE TABLE uploads (
    id           uuid PRIMARY KEY,
    user_id      uuid NOT NULL,
    file_id      uuid NOT NULL,
    key          text NOT NULL CHECK (char_length(key) BETWEEN 1 AND 512),
    s3_upload_id text NOT NULL CHECK (char_length(s3_upload_id) BETWEEN 1 AND 1024),
    content_type text NOT NULL CHECK (char_length(content_type) BETWEEN 1 AND 127),
    file_name    text NOT NULL CHECK (char_length(file_name) BETWEEN 1 AND 255),
    size_bytes   bigint NOT NULL CHECK (size_bytes > 0),
    part_bytes   bigint NOT NULL CHECK (part_bytes > 0),
    status       text NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'completed', 'aborted')),
    version      bigint NOT NULL DEFAULT 1 CHECK (version > 0),
    created_at   timestamptz NOT NULL DEFAULT now(),
    updated_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz NOT NULL
);

-- The sweep of uploads that nobody finished.
CREATE INDEX uploads_open ON uploads (expires_at, id) WHERE status = 'open';

COMMIT;
