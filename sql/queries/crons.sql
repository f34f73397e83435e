-- Jobs by the clock, and who may make them. All of it lies at place 0.

-- set: cron_columns name, type, schedule, zone, catch_up, payload, is_paused, next_at, updated_at

-- name: crons_lead :one
-- shard: place
-- args: name text
-- The number of a new leader; from now on those before it write nothing.
INSERT INTO scheduler_fence AS f (name, fence) VALUES ($1, 1)
ON CONFLICT (name, home) DO UPDATE SET fence = f.fence + 1
RETURNING fence;

-- name: crons_list :many
-- shard: place
-- args: max_rows bigint
-- All schedules.
SELECT :cron_columns FROM crons ORDER BY name LIMIT $1;

-- name: crons_set :exec
-- shard: place
-- args: name text, type text, schedule text, zone text, catch_up text, payload jsonb
-- Make a schedule or change it; its next tick is counted from now.
INSERT INTO crons AS c (name, type, schedule, zone, catch_up, payload)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (name, home) DO UPDATE
SET type = $2, schedule = $3, zone = $4, catch_up = $5, payload = $6, updated_at = now(),
    next_at = CASE WHEN c.schedule = $3 AND c.zone = $4 THEN c.next_at END;

-- name: crons_pause :exec
-- shard: place
-- args: name text, paused bool
-- Stop a schedule, or let it go on from now.
UPDATE crons SET is_paused = $2, next_at = NULL, updated_at = now() WHERE name = $1;

-- name: crons_drop :exec
-- shard: place
-- args: name text
-- Forget a schedule; jobs that it has made stay.
DELETE FROM crons WHERE name = $1;

-- name: crons_advance :exec
-- shard: place
-- args: name text, seen_at timestamptz, next_at timestamptz, fence bigint
-- Move on from the tick that was seen (absent: none yet). No row: another has, or another leads.
UPDATE crons SET next_at = $3, updated_at = now()
WHERE name = $1 AND next_at IS NOT DISTINCT FROM $2 AND NOT is_paused
  AND (SELECT fence FROM scheduler_fence WHERE name = 'scheduler' FOR SHARE) = $4;
