-- Revert maxbooster:idempotency from pg

BEGIN;

DROP TABLE idempotency;

COMMIT;
