"""What a phase consists of: instances, PostgreSQL servers and their shards, replicas, Redis nodes,
workers, and their ports.

The one declarative description; everything that renders or starts something walks these lists. A
further phase is a further row of PHASES.
"""

from dataclasses import dataclass, field

from .say import Refusal

# Offsets to PORT_BASE. 0-2 and 21… are promised to the outside; the others are ours. The first
# PostgreSQL server and the first Redis have ports of their own, the nth others port + n.
PROXY, S3_PUBLIC, METRICS, S3_INNER, SMTP = 0, 1, 2, 5, 30
INSTANCE_METRICS, DATABASE, REDIS = 20, 3, 4
WORKER_METRICS, SCHEDULER_METRICS = 6, 13  # of the first; up to 7 of each
FURTHER_DATABASE, REPLICA, FURTHER_REDIS, REDIS_BUS = 40, 50, 66, 80
SERVERS_MAX = 8  # PostgreSQL servers: FURTHER_DATABASE + 8 is the last port below REPLICA's
REDIS_SLOTS = 16384


def program_name(kind, number):
    """The first of a kind goes by the kind's name alone."""
    return kind if number == 1 else f"{kind}-{number}"


@dataclass(frozen=True)
class Instance:
    """A pool of API processes with a socket, a shared memory file and a metrics port of its own.

    Its pool takes turns with a spare one, which is another program with another socket: a rolling
    restart starts the one before it stops the other (restart.py)."""
    number: int
    metrics_port: int
    is_spare: bool = False

    @property
    def program(self):
        return program_name("api-b" if self.is_spare else "api", self.number)


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
class Replica:
    """A PostgreSQL server that follows a primary over a replication slot of its own."""
    number: int
    port: int
    primary: Database

    @property
    def program(self):
        return program_name("replica", self.number)

    @property
    def slot(self):
        return f"replica_{self.number}"


@dataclass(frozen=True)
class RedisNode:
    """One Redis. In a cluster also: bus port, its slots, or number of the node that it copies."""
    number: int
    port: int
    bus_port: int = None
    slots: range = None
    master: int = None

    @property
    def program(self):
        return program_name("redis", self.number)


@dataclass(frozen=True)
class Worker:
    """A process that runs jobs; queues None: those of WORKER_QUEUES."""
    program: str
    queues: str = None


@dataclass(frozen=True)
class Topology:
    phase: int
    base: int
    instances: tuple
    databases: tuple
    replicas: tuple
    redis: tuple
    workers: tuple
    schedulers: tuple
    has_cache: bool  # nginx keeps objects of S3

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

    @property
    def is_redis_cluster(self):
        return len(self.redis) > 1

    def doors(self):
        """{program: port of its metrics} of the workers and schedulers."""
        found = {w.program: self.base + WORKER_METRICS + n for n, w in enumerate(self.workers)}
        found |= {name: self.base + SCHEDULER_METRICS + n
                  for n, name in enumerate(self.schedulers)}
        return found

    def listening(self):
        """(port, program) of everything that listens."""
        ports = [(self.proxy_port, "nginx"), (self.s3_public_port, "nginx"),
                 (self.metrics_port, "nginx"), (self.s3_port, "s3")]
        ports += [(i.metrics_port, "nginx") for i in self.instances]
        ports += [(port, program) for program, port in self.doors().items()]
        ports += [(d.port, d.program) for d in self.databases + self.replicas]
        ports += [(r.port, r.program) for r in self.redis]
        ports += [(r.bus_port, r.program) for r in self.redis if r.bus_port]
        return ports

    def database_of(self, shard):
        return next(d for d in self.databases if shard in d.shards)

    def shards(self):
        return sorted(s for d in self.databases for s in d.shards)


@dataclass(frozen=True)
class Phase:
    """How many of each there are, and the settings that the phase stands for."""
    instances: int = 1
    databases: int = 1             # PostgreSQL servers, where DB_SERVERS does not say
    replicas: int = 0              # of each of them
    redis_masters: int = 1         # more than one: a Redis Cluster
    redis_replicas: int = 0        # of each of them
    workers: tuple = ((None, 1),)  # (queues, processes)
    schedulers: int = 1
    has_cache: bool = False        # nginx keeps objects of S3
    values: dict = field(default_factory=dict)


PHASES = {
    0: Phase(),
    1: Phase(instances=3, replicas=2, redis_masters=3, redis_replicas=1,
             workers=(("audio", 1), ("email", 1)), schedulers=2, has_cache=True),
    3: Phase(instances=6, databases=4, redis_masters=6,
             workers=(("audio", 2), ("email", 1)), schedulers=2, has_cache=True,
             # Six instances on one small machine: fewer threads and idle connections for each.
             values={"SHARD_COUNT": "16", "API_THREADS": "8", "DB_MAX_CONNECTIONS": "10"}),
}


def shard_name(shard):
    return f"maxbooster_{shard:02d}"


def values_of(phase):
    """Settings of a phase: they win over the tier's; what was given wins over them."""
    row = _row(phase)
    nodes = row.redis_masters * (1 + row.redis_replicas) if row.redis_masters > 1 else 0
    return {**row.values, "REDIS_CLUSTER_NODES": str(nodes)}


def build(phase, base, shard_count, servers=None, spares=()):
    """The topology; servers is DB_SERVERS, None where the phase decides; spares are the numbers of the
    instances whose spare pool serves."""
    row = _row(phase)
    if servers is not None and servers > shard_count:
        raise Refusal(f"DB_SERVERS={servers} is more than SHARD_COUNT={shard_count}: each server "
                      "holds a shard at least.")
    databases = _databases(base, servers or min(row.databases, shard_count), shard_count)
    followed = [d for d in databases for _ in range(row.replicas)]
    return Topology(
        phase, base,
        tuple(Instance(i, base + INSTANCE_METRICS + i, i in spares)
              for i in range(1, row.instances + 1)),
        databases,
        tuple(Replica(n, base + REPLICA + n, d) for n, d in enumerate(followed, 1)),
        _redis(base, row.redis_masters, row.redis_replicas),
        _workers(row.workers),
        tuple(program_name("scheduler", s) for s in range(1, row.schedulers + 1)),
        row.has_cache)


def _row(phase):
    if phase not in PHASES:
        known = ", ".join(str(p) for p in sorted(PHASES))
        raise Refusal(f"PHASE={phase} cannot be built here; this version knows PHASE={known}.")
    return PHASES[phase]


def _databases(base, servers, shard_count):
    """Shard s stands on server s mod servers."""
    return tuple(
        Database(d + 1, base + (DATABASE if d == 0 else FURTHER_DATABASE + d + 1),
                 tuple(s for s in range(shard_count) if s % servers == d))
        for d in range(servers))


def _redis(base, masters, replicas):
    """Masters first; their replicas, in the same order, behind them."""
    if masters == 1:
        return (RedisNode(1, base + REDIS),)
    nodes = []
    for n in range(1, masters * (1 + replicas) + 1):
        ports = base + (REDIS if n == 1 else FURTHER_REDIS + n), base + REDIS_BUS + n
        if n <= masters:
            slots = range((n - 1) * REDIS_SLOTS // masters, n * REDIS_SLOTS // masters)
            nodes.append(RedisNode(n, *ports, slots=slots))
        else:
            nodes.append(RedisNode(n, *ports, master=(n - 1) % masters + 1))
    return tuple(nodes)


def _workers(rows):
    found = []
    for queues, count in rows:
        kind = "worker" if queues is None else "worker-" + queues.replace(",", "-")
        found += [Worker(program_name(kind, n), queues) for n in range(1, count + 1)]
    return tuple(found)
