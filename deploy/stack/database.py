"""PostgreSQL of a stack: clusters, databases (one a logical shard), and the migrations on each."""

import concurrent.futures
import hashlib
import os
import re
import shutil
import signal
import subprocess
import time

from .programs import POSTGRES_BIN
from .render import ADMIN_ROLE, APP_ROLE
from .say import Refusal
from .topology import shard_name

PATTERN_DATABASE = "maxbooster_pattern"
AT_ONCE = 4  # sqitch is a Perl program that starts slowly; more only fight for the cores


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
    password = place.path("conf", "initdb.password")
    place.write("conf/initdb.password", secrets["postgres_admin"] + "\n", secret=True)
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
    """Role and databases. Fresh ones are copies of one that is migrated: so sqitch runs once, and
    what an interrupted run leaves is never half-migrated. Returns how many are new.
    """
    rows = psql(place, database, secrets, "postgres",
                "SELECT datname FROM pg_database UNION ALL SELECT rolname || ' role' FROM pg_roles")
    have = {r[0] for r in rows}
    if f"{APP_ROLE} role" not in have:
        psql(place, database, secrets, "postgres",
             f"CREATE ROLE {APP_ROLE} LOGIN PASSWORD '{secrets['postgres']}'")
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


class Migrations:
    """sqitch over shards, as the owner of the databases."""

    def __init__(self, place, topology, secrets, say):
        self.place, self.topology, self.secrets, self.say = place, topology, secrets, say
        self.plan = _read_plan(f"{place.repo}/sql/sqitch.plan")

    def _sqitch(self, database, name, words):
        environ = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC",
                   "HOME": "/nonexistent", "SQITCH_PASSWORD": self.secrets["postgres"],
                   "PGPASSWORD": self.secrets["postgres"],
                   "SQITCH_FULLNAME": "Max Booster", "SQITCH_EMAIL": "stack@localhost",
                   # Never wait behind a long transaction with everybody behind us.
                   "PGOPTIONS": "-c lock_timeout=10s"}
        done = subprocess.run(
            ["/usr/bin/sqitch", "--chdir", f"{self.place.repo}/sql"] + words
            + ["--target", f"db:pg://{APP_ROLE}@/{name}?host={self.place.sockets}"
                           f"&port={database.port}"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            check=False, env=environ)
        return done.returncode, done.stdout.strip()

    def on_all(self, shards, words, fine=lambda _text: False):
        """Run on several shards at once; True if all went well."""
        # Ctrl-C must not cut a change from its entry in sqitch's ledger; sqitch inherits this too.
        heeded = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            return self._on_all(shards, words, fine)
        finally:
            signal.signal(signal.SIGINT, heeded)

    def _on_all(self, shards, words, fine):
        def one(shard):
            return shard, self._sqitch(self.topology.database_of(shard), shard_name(shard), words)

        well = True
        with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
            for shard, (status, text) in pool.map(one, shards):
                good = status == 0 or fine(text)
                well = well and good
                last = (text.splitlines() or [""])[-1]
                self.say(f"shard {shard:02d} {'ok' if good else 'failed'}: {last}")
                if not good:
                    self.say(text)
        return well

    def states(self, shards):
        """{shard: [(change, script hash)] in the order of deployment}; no sqitch is started."""
        def one(shard):
            d = self.topology.database_of(shard)
            there = psql(self.place, d, self.secrets, shard_name(shard),
                         "SELECT to_regclass('sqitch.changes') IS NOT NULL")
            if there[0][0] != "t":
                return shard, []
            rows = psql(self.place, d, self.secrets, shard_name(shard),
                        "SELECT change, script_hash FROM sqitch.changes ORDER BY committed_at")
            return shard, [(r[0], r[1]) for r in rows]

        with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
            return dict(pool.map(one, shards))

    def behind(self, shards):
        """Shards whose state is not the plan's."""
        return [s for s, state in self.states(shards).items() if state != self.plan]

    def deploy(self, shards):
        late = self.behind(shards)
        if not late:
            return True
        return self.on_all(late, ["deploy", "--verify"], lambda t: "up-to-date" in t)

    def deploy_on(self, database, name):
        """Deploy on one database by its name; refuses with sqitch's words."""
        status, text = self._sqitch(database, name, ["deploy", "--verify"])
        if status != 0 and self.plan:
            words = _gist(text) if "No space left on device" in text else text
            raise Refusal(f"A migration failed on a fresh database: {words}")

    def status_lines(self, shards):
        """One line a shard, and whether all are at the plan's end."""
        lines, well = [], True
        for shard, state in sorted(self.states(shards).items()):
            names, plan = [c for c, _ in state], [c for c, _ in self.plan]
            if state == self.plan:
                word = "up to date"
            elif names == plan[:len(names)]:
                pending = len(plan) - len(names)
                word = f"{pending} pending" if pending else "a deployed script has changed"
                well = False
            else:
                word, well = "not in the plan's order", False
            newest = names[-1] if names else "nothing"
            lines.append(f"shard {shard:02d} {word}: {len(names)} of {len(plan)} changes, "
                         f"newest {newest}")
        return lines, well


def _read_plan(path):
    """[(change, SHA-1 of its deploy script)], as sqitch records them."""
    changes = []
    try:
        with open(path, encoding="utf-8") as f:
            for line in f:
                match = re.match(r"\s*([^%#@\s]\S*)\s", line)
                if match:
                    changes.append(match.group(1))
    except FileNotFoundError:
        return []
    plan = []
    for change in changes:
        try:
            with open(f"{os.path.dirname(path)}/deploy/{change}.sql", "rb") as f:
                plan.append((change, hashlib.sha1(f.read()).hexdigest()))
        except FileNotFoundError:
            raise Refusal(f"sql/sqitch.plan names {change}, but sql/deploy/{change}.sql is "
                          "missing.") from None
    return plan
