-- Revert maxbooster:emails from pg

BEGIN;

DROP TABLE emails;

COMMIT;
