-- Revert maxbooster:users from pg

BEGIN;

DROP TABLE users;

COMMIT;
