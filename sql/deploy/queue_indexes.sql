-- Deploy maxbooster:queue_indexes to pg

-- A parent's children, for cancelling and for their results.
CREATE INDEX CONCURRENTLY IF NOT EXISTS jobs_children ON jobs (parent_id)
    WHERE parent_id IS NOT NULL;
-- Is there such a job already? Newest first.
CREATE INDEX CONCURRENTLY IF NOT EXISTS jobs_dedup ON jobs (dedup_key, type, created_at DESC)
    WHERE dedup_key IS NOT NULL;
-- The oldest job of a type that is due, for the figures.
CREATE INDEX CONCURRENTLY IF NOT EXISTS jobs_due ON jobs (type, run_at)
    WHERE status = 'queued' AND waits_for = 0;
-- Dead letters of a type, for the operator's list and the figures.
CREATE INDEX CONCURRENTLY IF NOT EXISTS jobs_dead_type ON jobs (type, id) WHERE status = 'failed';
-- What is kept no longer.
CREATE INDEX CONCURRENTLY IF NOT EXISTS jobs_finished ON jobs (finished_at)
    WHERE finished_at IS NOT NULL;
