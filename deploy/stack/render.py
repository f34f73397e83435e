"""Everything that a stack reads, rendered from settings and topology."""

import json

from . import programs, settings
from .topology import shard_name

APP_ROLE, ADMIN_ROLE = "maxbooster", "postgres"
# Connections that one process pool may hold on one shard at most, in PostgreSQL's max_connections;
# beside it a few for people, tools and replication.
PG_CONNECTIONS_MAX, PG_CONNECTIONS_EXTRA = 1000, 30


def shard_url(place, topology, secrets, shard):
    d = topology.database_of(shard)
    return (f"postgresql://{APP_ROLE}:{secrets['postgres']}@/{shard_name(shard)}"
            f"?host={place.sockets}&port={d.port}")


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


def max_connections(values, shards):
    """Each pool of processes may hold DB_MAX_CONNECTIONS a shard, but no more than its threads."""
    threads = int(values["API_PROCESSES"]) * int(values["API_THREADS"])
    api = min(int(values["DB_MAX_CONNECTIONS"]), threads + int(values["DB_POOL_SIZE"]))
    others = int(values["WORKER_THREADS"]) + 8
    return min(shards * (api + others) + PG_CONNECTIONS_EXTRA, PG_CONNECTIONS_MAX)


def postgres_conf(place, database, values):
    data = place.path("data", database.program)
    memory = "posix" if place.shared_memory == "/dev/shm" else "mmap"
    return f"""\
# A small machine: one server for all shards of the stack.
data_directory = '{data}'
hba_file = '{place.path("conf", "pg_hba.conf")}'
ident_file = '{data}/pg_ident.conf'
listen_addresses = '127.0.0.1'
port = {database.port}
unix_socket_directories = '{place.sockets}'
unix_socket_permissions = 0700
max_connections = {max_connections(values, len(database.shards))}
password_encryption = scram-sha-256
dynamic_shared_memory_type = {memory}
shared_buffers = 128MB
work_mem = 4MB
maintenance_work_mem = 64MB
effective_cache_size = 1GB
random_page_cost = 1.1
jit = off
# Logical from the start: moving a shard needs it, and changing it later a restart.
wal_level = logical
max_wal_size = 1GB
max_wal_senders = 20
max_replication_slots = 20
max_slot_wal_keep_size = 4GB
wal_compression = on
checkpoint_completion_target = 0.9
idle_in_transaction_session_timeout = 60s
tcp_keepalives_idle = 30
client_connection_check_interval = 5s
timezone = 'UTC'
log_timezone = 'UTC'
log_line_prefix = '%m [%p] %d '
log_min_duration_statement = 1000
log_lock_waits = on
log_checkpoints = off
"""


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
    for p in listed:
        text += f"""\
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
    return text


def programs_file(place, listed):
    return json.dumps({"log_limit": programs.LOG_LIMIT,
                       "programs": {p.name: p.table_row(place) for p in listed}}, indent=1) + "\n"


