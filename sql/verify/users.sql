-- Verify maxbooster:users on pg

BEGIN;

SELECT id, email, name, role, password_hash, version, created_at, updated_at FROM users WHERE false;
SELECT 'users_name_trgm'::regclass;

ROLLBACK;
