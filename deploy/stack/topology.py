"""What a phase consists of: instances, databases, shards, Redis nodes, workers, and their ports.

The one declarative description; everything that renders or starts something walks these lists. A
further phase is a further row of PHASES.
"""

from dataclasses import dataclass

from .say import Refusal

# Offsets to PORT_BASE. 0-2 and 21… are promised to the outside; the others are ours.
PROXY, S3_PUBLIC, METRICS, S3_INNER, SMTP = 0, 1, 2, 5, 30
INSTANCE_METRICS, DATABASE, REDIS = 20, 3, 4


def program_name(kind, number):
    """The first of a kind goes by the kind's name alone."""
    return kind if number == 1 else f"{kind}-{number}"


@dataclass(frozen=True)
class Instance:
    """A pool of API processes with a socket, a shared memory file and a metrics port of its own."""
    number: int
    metrics_port: int

    @property
    def program(self):
        return program_name("api", self.number)


@dataclass(frozen=True)
class Database:
    """A PostgreSQL server and the logical shards that it holds."""
    number: int
    port: int
    shards: tuple

    @property
    def program(self):
        return program_name("postgres", self.number)


@dataclass(frozen=True)
class RedisNode:
    number: int
    port: int

    @property
    def program(self):
        return program_name("redis", self.number)


@dataclass(frozen=True)
class Topology:
    phase: int
    base: int
    instances: tuple
    databases: tuple
    redis: tuple
    workers: tuple
    schedulers: tuple

    @property
    def proxy_port(self):
        return self.base + PROXY

    @property
    def s3_public_port(self):
        return self.base + S3_PUBLIC

    @property
    def metrics_port(self):
        return self.base + METRICS

    @property
    def s3_port(self):
        return self.base + S3_INNER

    def listening(self):
        """(port, program) of everything that listens."""
        ports = [(self.proxy_port, "nginx"), (self.s3_public_port, "nginx"),
                 (self.metrics_port, "nginx"), (self.s3_port, "s3")]
        ports += [(i.metrics_port, "nginx") for i in self.instances]
        ports += [(d.port, d.program) for d in self.databases]
        ports += [(r.port, r.program) for r in self.redis]
        return ports

    def database_of(self, shard):
        return next(d for d in self.databases if shard in d.shards)

    def shards(self):
        return sorted(s for d in self.databases for s in d.shards)


@dataclass(frozen=True)
class Phase:
    """How many of each there are."""
    instances: int = 1
    databases: int = 1
    redis: int = 1
    workers: int = 1
    schedulers: int = 1


PHASES = {0: Phase()}


def shard_name(shard):
    return f"maxbooster_{shard:02d}"


def build(phase, base, shard_count):
    if phase not in PHASES:
        known = ", ".join(str(p) for p in sorted(PHASES))
        raise Refusal(f"PHASE={phase} cannot be built here; this version knows PHASE={known}.")
    row = PHASES[phase]
    shards = [tuple(s for s in range(shard_count) if s % row.databases == d)
              for d in range(row.databases)]
    return Topology(
        phase, base,
        tuple(Instance(i, base + INSTANCE_METRICS + i) for i in range(1, row.instances + 1)),
        tuple(Database(d + 1, base + DATABASE + d, shards[d]) for d in range(row.databases)),
        tuple(RedisNode(r + 1, base + REDIS + r) for r in range(row.redis)),
        tuple(program_name("worker", w) for w in range(1, row.workers + 1)),
        tuple(program_name("scheduler", s) for s in range(1, row.schedulers + 1)))
