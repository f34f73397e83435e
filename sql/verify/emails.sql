-- Verify maxbooster:emails on pg

BEGIN;

SELECT email, user_id, active, reserved_at FROM emails WHERE false;
SELECT 'emails_inactive'::regclass;

ROLLBACK;
