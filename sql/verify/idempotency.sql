-- Verify maxbooster:idempotency on pg

BEGIN;

SELECT user_id, key, fingerprint, status, body, headers, created_at FROM idempotency WHERE false;
SELECT 'idempotency_created'::regclass;

ROLLBACK;
