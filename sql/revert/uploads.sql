-- Revert maxbooster:uploads from pg

BEGIN;

DROP TABLE uploads;

COMMIT;
