"""PostgreSQL of a stack: clusters and databases (one a logical shard)."""

import os
import re
import shutil
import subprocess
import time

from .programs import POSTGRES_BIN
from .render import ADMIN_ROLE, APP_ROLE, REPLICATION_ROLE
from .say import Refusal
from .topology import shard_name

PATTERN_DATABASE = "maxbooster_pattern"


def _gist(text):
    """The line of a tool's last words that says why."""
    if "No space left on device" in text:
        return "the disk is full; make room, then make up again"
    lines = text.strip().splitlines() or ["no word"]
    return next((line for line in lines if re.search("error|fatal|panic|could not", line, re.I)),
                lines[-1])


def init_cluster(place, database, secrets):
    """Make the cluster, beside its place until it is whole. True if it is new."""
    data = place.path("data", database.program)
    if os.path.exists(data):
        return False
    fresh = data + ".new"
    shutil.rmtree(fresh, ignore_errors=True)
    password = place.path("conf", f"initdb.password.{database.number}")
    place.write(f"conf/initdb.password.{database.number}", secrets["postgres_admin"] + "\n",
                secret=True)
    try:
        done = subprocess.run(
            [f"{POSTGRES_BIN}/initdb", "-D", fresh, "-U", ADMIN_ROLE, "--pwfile", password,
             "-A", "scram-sha-256", "--encoding=UTF8", "--locale=C", "--data-checksums"],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}, cwd="/", **place.as_user())
    finally:
        os.unlink(password)
    if done.returncode != 0:
        shutil.rmtree(fresh, ignore_errors=True)
        raise Refusal(f"initdb failed: {_gist(done.stderr)}")
    os.rename(fresh, data)
    return True


def _environ(place, database, secrets):
    return {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC", "HOME": "/nonexistent",
            "PGHOST": place.sockets, "PGPORT": str(database.port),
            "PGPASSWORD": secrets["postgres_admin"], "PGCONNECT_TIMEOUT": "5",
            "PGUSER": ADMIN_ROLE}


def psql(place, database, secrets, name, sql):
    """Rows of one statement, as lists of text."""
    done = subprocess.run(
        ["/usr/bin/psql", "-X", "-q", "-A", "-t", "-F", "\t", "-v", "ON_ERROR_STOP=1", "-d", name,
         "-c", sql],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, cwd="/",
        env=_environ(place, database, secrets))
    if done.returncode != 0:
        raise Refusal(f"PostgreSQL ({name}): {_gist(done.stderr)}")
    return [line.split("\t") for line in done.stdout.splitlines() if line]


def ready(place, database):
    return subprocess.run(
        [f"{POSTGRES_BIN}/pg_isready", "-q", "-h", place.sockets, "-p", str(database.port)],
        check=False).returncode == 0


def await_ready(place, database, seconds=60):
    deadline = time.monotonic() + seconds
    while not ready(place, database):
        if time.monotonic() > deadline:
            raise Refusal(f"PostgreSQL does not start; see log/{database.program}.log of the "
                          "stack.")
        time.sleep(0.05)


def make_databases(place, database, secrets, migrate):
    """Roles and databases. Fresh ones are copies of one that is migrated: so the migrations run once, and
    what an interrupted run leaves is never half-migrated. Returns how many are new.
    """
    rows = psql(place, database, secrets, "postgres",
                "SELECT datname FROM pg_database UNION ALL SELECT rolname || ' role' FROM pg_roles")
    have = {r[0] for r in rows}
    if f"{APP_ROLE} role" not in have:
        psql(place, database, secrets, "postgres",
             f"CREATE ROLE {APP_ROLE} LOGIN PASSWORD '{secrets['postgres']}'")
    if f"{REPLICATION_ROLE} role" not in have:
        psql(place, database, secrets, "postgres",
             f"CREATE ROLE {REPLICATION_ROLE} LOGIN REPLICATION PASSWORD "
             f"'{secrets['replication']}'")
    missing = [s for s in database.shards if shard_name(s) not in have]
    if missing:
        drop = f"DROP DATABASE IF EXISTS {PATTERN_DATABASE} WITH (FORCE)"
        psql(place, database, secrets, "postgres", drop)
        psql(place, database, secrets, "postgres",
             f"CREATE DATABASE {PATTERN_DATABASE} OWNER {APP_ROLE}")
        migrate(database, PATTERN_DATABASE)
        for shard in missing:
            psql(place, database, secrets, "postgres", f"CREATE DATABASE {shard_name(shard)} "
                 f"OWNER {APP_ROLE} TEMPLATE {PATTERN_DATABASE} STRATEGY wal_log")
        psql(place, database, secrets, "postgres", drop)
    return len(missing)


def follows(place, replica, secrets):
    """(does it stream from its primary, a word about how far behind it is)."""
    try:
        rows = psql(place, replica.primary, secrets, "postgres", "SELECT state, pg_wal_lsn_diff("
                    "pg_current_wal_lsn(), replay_lsn)::bigint, "
                    "coalesce(round(extract(epoch FROM replay_lag) * 1000), 0) "
                    f"FROM pg_stat_replication WHERE application_name = '{replica.slot}'")
    except Refusal:
        return False, f"on :{replica.port}, its primary does not answer"
    if not rows or rows[0][0] != "streaming":
        return False, f"on :{replica.port}, does not follow {replica.primary.program}"
    return True, (f"follows {replica.primary.program} on :{replica.port}, {rows[0][1]} bytes and "
                  f"{rows[0][2]} ms behind")
