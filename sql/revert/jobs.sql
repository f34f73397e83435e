-- Revert maxbooster:jobs from pg

BEGIN;

DROP TABLE jobs;

COMMIT;
