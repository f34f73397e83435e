"""Moving shards by themselves: private servers with the real schema, maxboosterctl, and writers that
keep to the rules of the programs (ask for the map once a second, go where MB001 sends them) and
remember what was acknowledged."""
import contextlib
import hashlib
import json
import os
import random
import select
import signal
import subprocess
import threading
import time

import psycopg2

from . import pglab
from .queuelab import build, owned_id, user_id
from .waits import wait_until

SERVER = {"wal_level": "logical", "max_connections": 120, "max_replication_slots": 40,
          "max_wal_senders": 40, "max_logical_replication_workers": 24, "max_worker_processes": 32,
          "max_sync_workers_per_subscription": 4}
TABLES = {  # its key, and what decides where a row belongs
    "users": ("id", lambda key: place_of(key)),
    "emails": ("email", lambda key: place_of_text(key)),
    "jobs": ("id", lambda key: place_of(key)),
    "audio_files": ("id", lambda key: place_of(key)),
    "uploads": ("id", lambda key: place_of(key)),
    "password_resets": ("user_id::text || ' ' || token_hash", lambda key: place_of(key[:36])),
    "idempotency": ("user_id::text || ' ' || key", lambda key: place_of(key[:36])),
}
MOVED = "MB001"


def place_of_text(text):
    """First 8 hex digits of the hash, as a number."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16)


def place_of(some_id):
    """Place of a user's or an owned id (contract, section 5)."""
    return place_of_text(some_id) if some_id[14] == "7" else int(some_id[:8], 16)


class Fleet:
    """Databases for a number of shards on a server, and another server to move to."""

    def __init__(self, shards, servers=1):
        self.program = build("bin/maxboosterctl")[0]  # first: if it fails, no server is left
        self.servers = [pglab.Server(**SERVER) for _ in range(servers)]
        first = self.servers[0]
        for server in self.servers:
            server.sql("ALTER ROLE postgres PASSWORD 'topsecret'")
        first.sql("CREATE ROLE app LOGIN PASSWORD 'secret of app'")
        first.sql("CREATE DATABASE pattern OWNER app")
        pglab.sqitch(first, "pattern", "deploy")
        first.sql("GRANT ALL ON ALL TABLES IN SCHEMA public TO app", database="pattern")
        for shard in range(shards):
            first.sql(f"CREATE DATABASE mb_{shard:02d} OWNER app TEMPLATE pattern")
        self.shards = shards
        self.rows = {table: {} for table in TABLES}  # what was acknowledged

    def location(self, name, server=0):
        """A place, as maps have it."""
        return f"host=127.0.0.1 port={self.servers[server].port} dbname={name}"

    def env(self, **more):
        """What the programs are told."""
        port = self.servers[0].port
        env = {"PATH": os.environ["PATH"], "SHARD_COUNT": str(self.shards),
               "DATABASE_ADMIN_URL": f"postgresql://postgres:topsecret@127.0.0.1:{port}/postgres"}
        for shard in range(self.shards):
            name = "DATABASE_URL" if shard == 0 else f"DATABASE_SHARD_{shard:02d}_URL"
            env[name] = f"postgresql://app:x@127.0.0.1:{port}/mb_{shard:02d}"
        return {**env, **more}

    def start(self, *words, **variables):
        """Start maxboosterctl."""
        return subprocess.Popen([str(self.program), *words], env=self.env(**variables), text=True,
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT)

    def ctl(self, *words, expect=0, **variables):
        """Run maxboosterctl to its end; what it said."""
        process = self.start(*words, **variables)
        try:
            text, _ = process.communicate(timeout=300)
        finally:
            process.kill()
        assert process.returncode == expect, text
        assert "secret" not in text, text
        return text

    @staticmethod
    def read_to(line, process, seconds=120):
        """What it says, up to that line or its end; it has a time limit."""
        said, limit = [], threading.Timer(seconds, process.kill)
        limit.start()
        for text in process.stdout:
            said.append(text)
            if line in text:
                break
        limit.cancel()
        return "".join(said)

    def ctl_killed_at(self, line, *words):
        """Run it, and kill -9 when it has said that line; what it said."""
        process = self.start(*words)
        said = self.read_to(line, process)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        return said

    def add_user(self):
        """A user whom no writer knows; the id."""
        user = user_id()
        count, places = self.databases()
        with contextlib.closing(connect(places[place_of(user) % count])) as connection:
            with connection, connection.cursor() as cursor:
                cursor.execute("INSERT INTO users (id, email, name, password_hash)"
                               " VALUES (%s, 'quiet@example.org', 'v0', 'h')", (user,))
        self.rows["users"][user] = "v0"
        return user

    def directory(self):
        """The configured map, as a program knows it at its start."""
        return Directory(self.shards, [self.location(f"mb_{n:02d}") for n in range(self.shards)],
                         connect)

    def databases(self):
        """The newest map: (number of shards, [location of each shard])."""
        return self.directory().look()

    def leftovers(self):
        """Slots, publications, subscriptions, gates that are still there."""
        found = []
        for server in self.servers:
            found += server.sql("SELECT 'slot', slot_name FROM pg_replication_slots")
            found += server.sql("SELECT 'subscription', subname FROM pg_subscription")
            for (name,) in server.sql("SELECT datname FROM pg_database WHERE NOT datistemplate"):
                found += server.sql("SELECT 'publication', pubname FROM pg_publication",
                                    database=name)
                found += server.sql("SELECT 'gate', tgrelid::regclass::text FROM pg_trigger"
                                    " WHERE tgname = 'shard_gate'", database=name)
        return found

    def check(self):
        """Every row that was acknowledged is in the fleet once, where it belongs, and no other."""
        count, places = self.databases()
        found = {table: {} for table in TABLES}
        for location in set(places):
            with contextlib.closing(connect(location)) as connection:
                collect(connection, lambda place, here=location:
                        places[place % count] == here, found)
        for table, rows in self.rows.items():
            missing = rows.keys() - found[table].keys()
            extra = found[table].keys() - rows.keys()
            assert not missing and not extra, (table, len(missing), len(extra),
                                               sorted(missing)[:3], sorted(extra)[:3])
            for key, mark in rows.items():
                assert mark in found[table][key], (table, key, mark, found[table][key])
        return {table: len(rows) for table, rows in found.items()}

    def check_closed(self, locations):
        """These databases take no more writes."""
        for location in locations:
            with contextlib.closing(connect(location)) as connection:
                with connection.cursor() as cursor:
                    try:
                        cursor.execute("DELETE FROM users")
                        raise AssertionError(f"{location} is open")
                    except psycopg2.Error as fault:
                        assert fault.pgcode == MOVED, fault

    def close(self):
        for server in self.servers:
            server.close()


def connect(location):
    """A connection, as the programs'."""
    return psycopg2.connect(location + " user=postgres")


def collect(connection, is_here, found):
    """Add the rows of a database; each must belong there, and be seen once."""
    with connection.cursor() as cursor:
        for table, (key, place) in TABLES.items():
            cursor.execute(f"SELECT {key}, t::text FROM {table} t")
            for row_key, text in cursor.fetchall():
                assert is_here(place(row_key)), f"in the wrong place: {table} {row_key}"
                assert row_key not in found[table], f"twice: {table} {row_key}"
                found[table][row_key] = text


class Directory:
    """The map as one program knows it."""

    def __init__(self, count, places, connection_to):
        self.epoch = 0
        self.count, self.places, self.connection_to = count, places, connection_to
        self.moving = set()
        self.looked = 0.0

    def learn(self, epoch, text):
        value = text if isinstance(text, dict) else json.loads(text)
        self.epoch = epoch
        self.count = value["shardCount"]
        databases = [d["location"] for d in value["databases"]]
        self.places = [databases[i] for i in value["shards"]]
        self.moving = {d["location"] for d in value["databases"] if "moving" in d["flags"]}

    def ask(self, connection):
        """Ask one database; True if the map is newer."""
        with connection.cursor() as cursor:
            cursor.execute("SELECT epoch, map FROM shard_map WHERE epoch > %s"
                           " ORDER BY epoch DESC LIMIT 1", (self.epoch,))
            rows = cursor.fetchall()
        for epoch, text in rows:
            self.learn(epoch, text)
        return bool(rows)

    def look(self):
        """Ask all that are known until nothing is newer."""
        again = True
        while again:
            again = False
            for place in list(dict.fromkeys(self.places)):
                with contextlib.suppress(psycopg2.OperationalError):  # dropped; others know more
                    with contextlib.closing(self.connection_to(place)) as connection:
                        again = self.ask(connection) or again
        return self.count, self.places


class Writer(threading.Thread):
    """Registers users and changes what is theirs, without a pause."""

    def __init__(self, fleet, seed, pause=0.0):
        super().__init__(daemon=True)
        self.random = random.Random(seed)
        self.map = fleet.directory()
        self.connections = {}
        self.stopping = threading.Event()
        self.pause = pause
        self.rows = {table: {} for table in TABLES}  # key: text that the row must contain
        self.users = []
        self.done, self.refused, self.longest_s = 0, 0, 0.0
        self.failures = []

    def connection(self, location):
        """A kept connection; what its server has said unasked is good-bye."""
        kept = self.connections.get(location)
        if kept is not None and select.select([kept], [], [], 0)[0]:
            kept.close()
            del self.connections[location]
        if location not in self.connections:
            self.connections[location] = connect(location)
            self.connections[location].autocommit = True
        return self.connections[location]

    def transaction(self, place, *statements, in_tx=False):
        """Statements on the place's shard, one by one with autocommit or all in one transaction."""
        start = time.monotonic()
        while True:
            location = self.map.places[place % self.map.count]
            connection = self.connection(location)
            first = True
            try:
                with connection.cursor() as cursor:
                    if in_tx:
                        cursor.execute("BEGIN; SELECT shard_gate()"
                                       if location in self.map.moving else "BEGIN")
                    for sql, *arguments in statements:
                        cursor.execute(sql, arguments)
                        rows = cursor.fetchall() if cursor.description else cursor.rowcount
                        first = False
                    if in_tx:
                        cursor.execute("COMMIT")
                break
            except psycopg2.Error as fault:
                if fault.pgcode != MOVED or (in_tx and not first):
                    raise
                self.refused += 1
                if in_tx:
                    with connection.cursor() as cursor:
                        cursor.execute("ROLLBACK")
                if time.monotonic() - start > 10:
                    raise
                if not self.map.ask(connection):
                    self.stopping.wait(0.02)
        self.longest_s = max(self.longest_s, time.monotonic() - start)
        self.done += 1
        return rows

    def register(self):
        user = user_id()
        email = f"{user}@{self.random.random()}.example"
        self.transaction(place_of_text(email),
                         ("INSERT INTO emails (email, user_id) VALUES (%s, %s)", email, user))
        self.rows["emails"][email] = user
        self.transaction(place_of(user),
                         ("INSERT INTO users (id, email, name, password_hash)"
                          " VALUES (%s, %s, 'v0', 'h')", user, email))
        self.rows["users"][user] = "v0"
        self.users.append(user)
        self.transaction(place_of_text(email),
                         ("UPDATE emails SET active = true WHERE email = %s", email))

    def change(self, user):
        name = f"v{self.random.randrange(10 ** 9)}"
        n = self.transaction(place_of(user),
                             ("UPDATE users SET name = %s, version = version + 1 WHERE id = %s",
                              name, user))
        assert n == 1, f"{user} is not there"
        self.rows["users"][user] = name
        rows = self.transaction(place_of(user), ("SELECT name FROM users WHERE id = %s", user))
        assert rows == [(name,)], (user, name, rows)

    def own(self, user):
        """A job, a token and an answer in one transaction; a job that goes."""
        job, mark = owned_id(user), f"m{self.random.randrange(10 ** 9)}"
        token = hashlib.sha256(job.encode()).hexdigest()
        self.transaction(
            place_of(user),
            ("INSERT INTO jobs (id, user_id, type, payload, traceparent)"
             " VALUES (%s, %s, 't', '{}', %s)", job, user, mark),
            ("INSERT INTO password_resets (token_hash, user_id, expires_at)"
             " VALUES (%s, %s, now())", token, user),
            ("INSERT INTO idempotency (user_id, key, fingerprint, status) VALUES (%s, %s, %s, 200)",
             user, mark, mark), in_tx=True)
        self.rows["jobs"][job] = mark
        self.rows["password_resets"][f"{user} {token}"] = token
        self.rows["idempotency"][f"{user} {mark}"] = mark
        if self.random.random() < 0.5:
            self.transaction(place_of(user), ("DELETE FROM jobs WHERE id = %s", job))
            del self.rows["jobs"][job]
        if self.random.random() < 0.3:
            self.transaction(place_of(user),
                             ("DELETE FROM password_resets WHERE token_hash = %s", token))
            del self.rows["password_resets"][f"{user} {token}"]

    def run(self):
        try:
            while not self.stopping.is_set():
                if time.monotonic() - self.map.looked > 1:
                    self.map.ask(self.connection(self.random.choice(self.map.places)))
                    self.map.looked = time.monotonic()
                if not self.users or self.random.random() < 0.3:
                    self.register()
                else:
                    user = self.random.choice(self.users)
                    self.random.choice([self.change, self.own])(user)
                if self.pause:
                    self.stopping.wait(self.pause)
        except Exception as fault:  # pylint: disable=broad-except
            self.failures.append(repr(fault))
        finally:
            for connection in self.connections.values():
                connection.close()


class Load:
    """Several writers; together they know all that is acknowledged."""

    def __init__(self, fleet, writers=3, pause=0.01):
        self.fleet = fleet
        self.writers = [Writer(fleet, n, pause) for n in range(writers)]
        for writer in self.writers:
            writer.start()

    @property
    def done(self):
        return sum(w.done for w in self.writers)

    @property
    def longest_s(self):
        return max(w.longest_s for w in self.writers)

    def failures(self):
        return [f for w in self.writers for f in w.failures]

    def go_on(self, n=100):
        """Wait until as many more writes are done, none of them having failed."""
        before = self.done
        wait_until(lambda: self.failures() or self.done >= before + n, 60, "writes to go on")
        assert not self.failures(), self.failures()

    def end(self):
        """Stop writing."""
        for writer in self.writers:
            writer.stopping.set()
        for writer in self.writers:
            writer.join(30)

    def stop(self):
        """End them, and look whether all that they were told is done is there."""
        self.end()
        assert not self.failures(), self.failures()
        for writer in self.writers:
            for table, rows in writer.rows.items():
                self.fleet.rows[table].update(rows)
        self.fleet.check()
