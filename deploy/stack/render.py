"""Everything that a stack reads, rendered from settings and topology."""

import json

from . import programs, settings
from .topology import shard_name

APP_ROLE, ADMIN_ROLE, REPLICATION_ROLE = "maxbooster", "postgres", "maxbooster_replication"
# Bound of max_connections; and what it has for people, tools and replication.
PG_CONNECTIONS_MAX, PG_CONNECTIONS_EXTRA = 2000, 30
# What all PostgreSQL servers of a stack share among themselves.
PG_BUFFERS_MB, PG_BUFFERS_LEAST_MB = 128, 32


def database_url(place, secrets, port, shard):
    return (f"postgresql://{APP_ROLE}:{secrets['postgres']}@/{shard_name(shard)}"
            f"?host={place.sockets}&port={port}")


def shard_url(place, topology, secrets, shard):
    return database_url(place, secrets, topology.database_of(shard).port, shard)


def generated(place, topology, secrets):
    """Values that only the stack can know."""
    redis = ",".join(f"redis://:{secrets['redis']}@127.0.0.1:{r.port}" for r in topology.redis)
    values = {
        "PHASE": topology.phase,
        "INSTANCE_ID": "1",
        "INSTANCE_SHM": f"{place.shared_memory}/maxbooster-{place.tag}-1",
        "PUBLIC_URL": f"http://127.0.0.1:{topology.proxy_port}",
        "DATABASE_URL": shard_url(place, topology, secrets, 0),
        "REDIS_URL": redis,
        # Through the proxy for us too: it is what keeps a body that was cut short out of S3.
        "S3_ENDPOINT": f"http://127.0.0.1:{topology.s3_public_port}",
        "S3_PUBLIC_ENDPOINT": f"http://127.0.0.1:{topology.s3_public_port}",
        "S3_BUCKET": "maxbooster-uploads",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": secrets["s3_key"],
        "AWS_SECRET_ACCESS_KEY": secrets["s3_secret"],
    }
    for shard in topology.shards()[1:]:
        values[f"DATABASE_SHARD_{shard:02d}_URL"] = shard_url(place, topology, secrets, shard)
    for r in topology.replicas:
        values[f"DATABASE_REPLICA_{r.number - 1}_URL"] = database_url(
            place, secrets, r.port, r.primary.shards[0])
    return {k: str(v) for k, v in values.items()}


def complete(values, table, place, topology, secrets):
    """Tier and overrides, with generated values where nothing was given."""
    full = {**generated(place, topology, secrets), **values}
    for name in ("SHARD_COUNT", "DB_POOL_SIZE", "DB_MAX_CONNECTIONS", "API_PROCESSES",
                 "API_THREADS", "WORKER_THREADS", "RATE_LIMIT_MAX", "RATE_LIMIT_WINDOW_MS",
                 "BODY_MAX_BYTES", "REQUEST_TIMEOUT_MS"):
        full[name] = str(settings.number(full, table, name))
    return full


def env_file(values):
    lines = ["# Written by `make up`; change values by giving them there."]
    return "\n".join(lines + [f"{k}={v}" for k, v in sorted(values.items())]) + "\n"


def max_connections(topology, values, shards):
    """Each pool of processes may hold DB_MAX_CONNECTIONS a shard, but no more than its threads."""
    threads = int(values["API_PROCESSES"]) * int(values["API_THREADS"])
    api = min(int(values["DB_MAX_CONNECTIONS"]), threads + int(values["DB_POOL_SIZE"]))
    others = int(values["WORKER_THREADS"]) + 8
    pools = len(topology.instances) * api + len(topology.workers) * others
    return min(shards * pools + PG_CONNECTIONS_EXTRA, PG_CONNECTIONS_MAX)


def postgres_conf(place, topology, server, values):
    """Of a primary or a replica. A replica needs as many connections as its primary has."""
    data = place.path("data", server.program)
    memory = "posix" if place.shared_memory == "/dev/shm" else "mmap"
    shards = max(len(d.shards) for d in topology.databases)
    servers = len(topology.databases) + len(topology.replicas)
    return f"""\
# A small machine.
data_directory = '{data}'
hba_file = '{place.path("conf", "pg_hba.conf")}'
ident_file = '{data}/pg_ident.conf'
listen_addresses = '127.0.0.1'
port = {server.port}
cluster_name = '{server.program}'
unix_socket_directories = '{place.sockets}'
unix_socket_permissions = 0700
max_connections = {max_connections(topology, values, shards)}
password_encryption = scram-sha-256
dynamic_shared_memory_type = {memory}
shared_buffers = {max(PG_BUFFERS_MB // servers, PG_BUFFERS_LEAST_MB)}MB
work_mem = 4MB
maintenance_work_mem = 64MB
effective_cache_size = 1GB
random_page_cost = 1.1
jit = off
# Logical from the start: moving a shard needs it, and changing it later a restart.
wal_level = logical
max_wal_size = 1GB
# For each shard that leaves a way out and a way back, and a few.
max_wal_senders = {2 * shards + 16}
max_replication_slots = {2 * shards + 16}
max_logical_replication_workers = {2 * shards + 4}
max_worker_processes = {2 * shards + 12}
max_slot_wal_keep_size = 4GB
wal_compression = on
checkpoint_completion_target = 0.9
idle_in_transaction_session_timeout = 60s
tcp_keepalives_idle = 30
# Else a replica that stands still could hold up checkpoints, which wait for its sender to end.
tcp_user_timeout = 15s
client_connection_check_interval = 5s
timezone = 'UTC'
log_timezone = 'UTC'
log_line_prefix = '%m [%p] %d '
log_min_duration_statement = 1000
log_lock_waits = on
log_checkpoints = off
"""


def replica_conf(place, topology, replica, values, secrets):
    """As the primary's, and whom it follows. With a password in it."""
    return postgres_conf(place, topology, replica, values) + f"""\
hot_standby = on
# It tells the primary which rows its queries still need: none of them is cancelled for a vacuum.
hot_standby_feedback = on
# By TCP, which both ends may give up: see tcp_user_timeout.
primary_conninfo = 'host=127.0.0.1 port={replica.primary.port} user={REPLICATION_ROLE} \
password={secrets["replication"]} application_name={replica.slot}'
primary_slot_name = '{replica.slot}'
wal_receiver_status_interval = 1s
wal_retrieve_retry_interval = 500ms
"""


def replica_file(place, replica, secrets):
    """What replica.py needs to know, as JSON."""
    return json.dumps({
        "data": place.path("data", replica.program), "slot": replica.slot,
        "argv": programs.postgres_argv(place, replica),
        "psql": "/usr/bin/psql", "pg_basebackup": f"{programs.POSTGRES_BIN}/pg_basebackup",
        "conninfo": f"host={place.sockets} port={replica.primary.port} dbname=postgres "
                    f"user={REPLICATION_ROLE}",
        "password": secrets["replication"]},
        indent=1) + "\n"


PG_HBA = """\
# Loopback and the stack's own socket, by password.
local   all          all                     scram-sha-256
local   replication  all                     scram-sha-256
host    all          all   127.0.0.1/32      scram-sha-256
host    replication  all   127.0.0.1/32      scram-sha-256
"""


def redis_conf(place, node, secrets):
    return f"""\
bind 127.0.0.1
port {node.port}
protected-mode yes
requirepass {secrets["redis"]}
daemonize no
supervised no
dir {place.path("data", node.program)}
logfile ""
# Sessions must outlive a kill: at most a second is lost. Acknowledged jobs are rows in PostgreSQL.
appendonly yes
appendfsync everysec
aof-load-truncated yes
save ""
# An evicting Redis would drop sessions and queues in silence.
maxmemory 512mb
maxmemory-policy noeviction
tcp-keepalive 60
timeout 0
""" + (_redis_cluster_conf(node, secrets) if node.bus_port else "")


def _redis_cluster_conf(node, secrets):
    return f"""\
cluster-enabled yes
cluster-config-file nodes.conf
cluster-port {node.bus_port}
# A master that is silent this long is replaced by its replica.
cluster-node-timeout 2000
# A dead master without a replica takes only its own slots; replicas stay with their masters.
cluster-require-full-coverage no
cluster-allow-replica-migration no
masterauth {secrets["redis"]}
repl-diskless-sync-delay 0
"""


def digest_line(place, program):
    return f'environment=MAXBOOSTER_DIGEST="{program.name}-{program.digest(place)}"'


def supervisor_conf(place, listed):
    """supervisord's file; the digest restarts a program whose files have changed."""
    text = f"""\
[unix_http_server]
file={place.sockets}/supervisor.sock
chmod=0700
[supervisord]
logfile={place.path("log", "supervisord.log")}
logfile_maxbytes=1MB
logfile_backups=1
pidfile={place.path("run", "supervisord.pid")}
childlogdir={place.path("tmp")}
directory={place.path("run")}
identifier=maxbooster-{place.name}
nodaemon=true
silent=true
minfds=1024
umask=077
[supervisorctl]
serverurl=unix://{place.sockets}/supervisor.sock
[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
"""
    return text + "".join(supervisor_section(place, p) for p in listed)


def supervisor_section(place, p):
    """What supervisord's file says of one program."""
    return f"""\
[program:{p.name}]
command=/usr/bin/python3 -I {place.path("lib", "launch.py")} {place.root} {p.name}
{digest_line(place, p)}
priority={p.stage}
autostart=true
autorestart=true
startsecs=0
stopsignal={p.stop_signal}
stopwaitsecs={p.stop_wait}
stdout_logfile=NONE
stderr_logfile=NONE
"""


def programs_file(place, listed):
    return json.dumps({"log_limit": programs.LOG_LIMIT,
                       "programs": {p.name: p.table_row(place) for p in listed}}, indent=1) + "\n"


