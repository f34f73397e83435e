-- Verify maxbooster:queue_indexes on pg

BEGIN;

SELECT 'jobs_children'::regclass, 'jobs_dedup'::regclass, 'jobs_due'::regclass,
       'jobs_dead_type'::regclass, 'jobs_finished'::regclass;

ROLLBACK;
