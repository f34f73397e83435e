-- Verify maxbooster:queue_pauses on pg

BEGIN;

SELECT queue, home, paused_at FROM queue_pauses WHERE false;

ROLLBACK;
