-- Deploy maxbooster:extensions to pg

BEGIN;

-- Trigram search of names; a trusted extension, so the owner of the database may create it.
CREATE EXTENSION IF NOT EXISTS pg_trgm;

COMMIT;
