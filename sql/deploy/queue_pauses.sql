-- Deploy maxbooster:queue_pauses to pg

BEGIN;

-- Queues that an operator has paused, all on shard 0 (home is an id of place 0): Redis may be lost,
-- what he decided is not.
CREATE TABLE queue_pauses (
    queue     text CHECK (char_length(queue) BETWEEN 1 AND 64),
    home      uuid NOT NULL DEFAULT '00000000-0000-8000-8000-000000000000',
    paused_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (queue, home)
);

INSERT INTO shard_tables (name, placed_by, column_name) VALUES
    ('queue_pauses', 'owned', 'home');

COMMIT;
