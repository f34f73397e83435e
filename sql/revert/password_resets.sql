-- Revert maxbooster:password_resets from pg

BEGIN;

DROP TABLE password_resets;

COMMIT;
