-- Verify maxbooster:password_resets on pg

BEGIN;

SELECT token_hash, user_id, expires_at, created_at FROM password_resets WHERE false;
SELECT 'password_resets_user'::regclass, 'password_resets_expiry'::regclass;

ROLLBACK;
