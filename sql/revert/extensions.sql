-- Revert maxbooster:extensions from pg

BEGIN;

DROP EXTENSION IF EXISTS pg_trgm;

COMMIT;
