"""The data tier, on PostgreSQL servers of its own: what routing costs beside bare libpq and with more
shards, a question to all shards beside the slowest of them, and the share of reads on replicas."""

import contextlib
import json
import os
import subprocess
import sys

from measure import spread
from world import REPO, Refusal

sys.path.insert(0, os.path.join(REPO, "integration"))
from harness import pglab  # noqa: E402  (the tests' servers and drivers)

SHARDS, TURNS, READS, USERS = (1, 4, 16), 7, 8000, 5000
SCATTER_ROUNDS, SCATTER_WAITS_MS = 51, (0, 10)
# Reads and writes of 600 users by three threads, each of some user's own row.
MIX = "mix 0 3 60000 100000 600 10 1"
TABLE = f"""
CREATE EXTENSION pg_trgm;
CREATE TABLE users (id uuid PRIMARY KEY, email text, name text, role text, password_hash text,
                    version bigint DEFAULT 1, created_at timestamptz DEFAULT now(),
                    updated_at timestamptz DEFAULT now());
GRANT ALL ON users TO app;
INSERT INTO users (id, email, name, role, password_hash)
SELECT overlay(gen_random_uuid()::text PLACING '7' FROM 15 FOR 1)::uuid, 'x@example.invalid',
       CASE WHEN i % 50 = 0 THEN 'Bench ' || i ELSE md5(i::text) END, 'artist', 'x'
FROM generate_series(1, {USERS}) AS i;
CREATE INDEX ON users USING gin (lower(name) gin_trgm_ops);
ANALYZE users"""


def _program(world, name, words, server, shards):
    """One program over so many shards; the JSON that it prints."""
    addresses = {f"DATABASE_SHARD_{n:02d}_URL": server.url(f"shard_{n}", "app")
                 for n in range(shards)}
    done = subprocess.run([os.path.join(world.build, "loadtest", name), *map(str, words)],
                          env={"PATH": os.environ["PATH"], "SHARD_COUNT": str(shards),
                               "INSTANCE_SHM": "", **addresses},
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Refusal(f"{name} failed: {done.stdout[-1000:]}{done.stderr[-1000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _shards(world, rounds):
    """{routed: {shards: [samples]}, scatter: {wait: [samples]}}."""
    found = {"routed": {n: [] for n in SHARDS}, "scatter": {w: [] for w in SCATTER_WAITS_MS}}
    with pglab.driver_server() as server:
        for n in range(SHARDS[-1]):
            server.sql(f"CREATE DATABASE shard_{n}")
            server.sql(TABLE, database=f"shard_{n}")
        for _ in range(rounds):
            for n in SHARDS:
                found["routed"][n].append(_program(world, "bench_pg", (TURNS, READS), server, n))
            for wait in SCATTER_WAITS_MS:
                found["scatter"][wait].append(_program(
                    world, "bench_scatter", (SCATTER_ROUNDS, wait), server, SHARDS[-1]))
    return found


def _share(rounds):
    """Shares of reads that two replicas answered."""
    with contextlib.ExitStack() as stack:
        primary = stack.enter_context(pglab.driver_server())
        replicas = [pglab.Replica(primary) for _ in range(2)]
        for replica in replicas:
            stack.callback(replica.close)
        shm = stack.enter_context(pglab.shared_memory())
        make = stack.enter_context(pglab.drivers(primary, shm))
        driver = make(**{f"DATABASE_REPLICA_{n}_URL": r.url("driver", "app")
                         for n, r in enumerate(replicas)})
        samples = []
        for _ in range(rounds + 1):  # the first finds the replicas and fills the table
            driver.send(MIX)
            samples.append(driver.receive())
        if any(s["stale"] or s["failed"] for s in samples):
            raise Refusal(f"stale or failed reads: {samples}")
        return samples[1:]


def run(world, rounds):
    return {**_shards(world, rounds), "share": _share(rounds)}


def rows(row, found):
    """For the report, by its function row()."""
    routed, scatter = found["routed"], found["scatter"]
    flat = [many["routedUs"] / one["routedUs"] for one, many in zip(routed[1], routed[16])]
    share = [100 * s["replica"] / s["reads"] for s in found["share"]]
    return [row("data-routed", "routed read of one row, CPU time × bare prepared libpq", "×",
                spread([s["ratio"] for n in SHARDS for s in routed[n]]), 1.08, True),
            row("data-flat", "… with 16 shards × with 1", "×", spread(flat), 1.05, True),
            *[row(f"data-scatter-{wait}", "question to 16 shards × the slowest alone, "
                  + (f"{wait} ms of waiting each" if wait else "all on these cores"), "×",
                  # Without waiting it is the work of 16 servers on the cores of one machine.
                  spread([s["ratio"] for s in scatter[wait]]), 2 if wait else None, True)
              for wait in SCATTER_WAITS_MS],
            row("data-share", "reads on replicas, 90 of reads to 10 of writes", "%",
                spread(share), 90)]
