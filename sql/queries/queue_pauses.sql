-- Queues that an operator has paused. All of it lies at place 0.

-- name: queue_pauses_set :exec
-- shard: place
-- args: queue text
-- Remember a pause.
INSERT INTO queue_pauses (queue) VALUES ($1) ON CONFLICT (queue, home) DO NOTHING;

-- name: queue_pauses_drop :exec
-- shard: place
-- args: queue text
-- Forget it.
DELETE FROM queue_pauses WHERE queue = $1;

-- name: queue_pauses_list :many
-- shard: place
-- args: max_rows bigint
-- All paused queues.
SELECT queue FROM queue_pauses ORDER BY queue LIMIT $1;
