-- Deploy maxbooster:audio_files to pg

BEGIN;

-- A file of a user, from the upload URL to the verified track. Bytes are in S3 under key.
-- pending -> uploaded -> verified | rejected; what the probe found is there once it is verified.
CREATE TABLE audio_files (
    id           uuid PRIMARY KEY,
    user_id      uuid NOT NULL,
    key          text NOT NULL CHECK (char_length(key) BETWEEN 1 AND 512),
    status       text NOT NULL DEFAULT 'pending'
                 CHECK (status IN ('pending', 'uploaded', 'verified', 'rejected')),
    origin       text NOT NULL DEFAULT 'upload' CHECK (origin IN ('upload', 'convert', 'mix')),
    file_name    text NOT NULL CHECK (char_length(file_name) BETWEEN 1 AND 255),
    content_type text NOT NULL CHECK (char_length(content_type) BETWEEN 1 AND 127),
    size_bytes   bigint NOT NULL CHECK (size_bytes >= 0),
    etag         text,
    sha256       text CHECK (sha256 ~ '^[0-9a-f]{64}$'),
    container    text,
    codec        text,
    duration_ms  bigint CHECK (duration_ms >= 0),
    sample_rate  bigint CHECK (sample_rate > 0),
    channels     bigint CHECK (channels > 0),
    bit_depth    bigint CHECK (bit_depth > 0),
    bit_rate     bigint CHECK (bit_rate >= 0),
    analysis     jsonb,
    rejection    jsonb,
    version      bigint NOT NULL DEFAULT 1 CHECK (version > 0),
    created_at   timestamptz NOT NULL DEFAULT now(),
    updated_at   timestamptz NOT NULL DEFAULT now(),
    deleted_at   timestamptz,
    CONSTRAINT audio_files_key UNIQUE (key)
);

-- A user's list, newest first; ids of one owner sort by time.
CREATE INDEX audio_files_user ON audio_files (user_id, id DESC) WHERE deleted_at IS NULL;

COMMIT;
