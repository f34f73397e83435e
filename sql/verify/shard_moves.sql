-- Verify maxbooster:shard_moves on pg

BEGIN;

SELECT id, state, plan, started_at, updated_at FROM shard_moves WHERE false;
SELECT name, placed_by, column_name FROM shard_tables WHERE false;
SELECT 1 / (relreplident = 'f')::int FROM pg_class WHERE oid = 'password_resets'::regclass;
-- sha256('00000000-0000-7000-8000-000000000000') and sha256('a@b.c') begin so.
SELECT 1 / (shard_place_of_user('00000000-0000-7000-8000-000000000000') = x'1ed59334'::bigint
            AND shard_place_of_owned('ffffffff-0000-8000-8000-000000000000') = 4294967295
            AND shard_place_of_email('a@b.c') = x'd648b243'::bigint)::int;

ROLLBACK;
