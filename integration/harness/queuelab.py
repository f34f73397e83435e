"""The job queue by itself: a private Redis, PostgreSQL and mail server, workers, schedulers."""
import asyncio
import collections
import contextlib
import email
import email.policy
import fcntl
import hashlib
import json
import os
import pathlib
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid

import psycopg2
from aiosmtpd.controller import Controller

from .redislab import PERSISTENT, RedisServer, free_port
from .waits import wait_until

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PG_BIN = pathlib.Path("/usr/lib/postgresql/15/bin")
SHARDS = 2
PROGRAMS = ("bin/maxbooster-worker", "bin/maxbooster-scheduler", "bin/maxboosterctl",
            "loadtest/queue_driver")


def build(*targets):
    """Build with the Makefile; the paths of the targets, which are relative to the build folder."""
    san = os.environ.get("SAN", "")
    folder = (os.environ.get("MB_BUILD") or os.environ.get("B")
              or ("build/" + san if san else "build"))
    paths = [f"{folder}/{target}" for target in targets]
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    (ROOT / folder).mkdir(parents=True, exist_ok=True)
    with open(ROOT / folder / ".lock", "w", encoding="ascii") as lock:  # two makes mix their files
        fcntl.flock(lock, fcntl.LOCK_EX)
        subprocess.run(["make", "-s", f"B={folder}", *paths], cwd=ROOT, check=True, env=env,
                       stdin=subprocess.DEVNULL)
    return [ROOT / path for path in paths]


def user_id():
    """A new user's id (UUIDv7)."""
    raw = bytearray(int(time.time() * 1000).to_bytes(6, "big") + os.urandom(10))
    raw[6], raw[8] = raw[6] & 0x0F | 0x70, raw[8] & 0x3F | 0x80
    return str(uuid.UUID(bytes=bytes(raw)))


def owned_id(owner=None):
    """A new id of something that the user owns, or of something on a random shard."""
    place = hashlib.sha256(owner.encode()).digest()[:4] if owner else os.urandom(4)
    raw = bytearray(place + os.urandom(12))
    raw[6], raw[8] = raw[6] & 0x0F | 0x80, raw[8] & 0x3F | 0x80
    return str(uuid.UUID(bytes=bytes(raw)))


def shard_of(some_id):
    """The shard of an owned id."""
    return int(some_id[:8], 16) % SHARDS


def query(name):
    """Text of a named query."""
    sys.path.insert(0, str(ROOT / "tools"))
    import gen_queries  # pylint: disable=import-outside-toplevel
    found, _ = gen_queries.read_all(str(ROOT / "sql/queries"))
    return next(q.text for q in found if q.name == name)


class Redis(RedisServer):
    """A Redis server whose disk may be lost too."""

    def __init__(self, folder):
        super().__init__(folder, *PERSISTENT)
        self.url = f"redis://127.0.0.1:{self.port}"

    def lose_all(self):
        """kill -9, and its disk is gone."""
        self.kill()
        shutil.rmtree(self.folder)
        self.folder.mkdir()

    def known(self, queue="email"):
        """How many jobs a queue knows."""
        return self.client.hlen(f"{{{queue}}}:jobs")


class Postgres:
    """A PostgreSQL server with a database per shard, migrated."""

    def __init__(self):
        # Below /tmp, since root's own folders are closed to the server's user.
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="queuelab-", dir="/tmp"))
        self.port = free_port()
        self._as = []
        if os.geteuid() == 0:
            account = pwd.getpwnam("postgres")
            os.chown(self.folder, account.pw_uid, account.pw_gid)
            self._as = ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}",
                        "--clear-groups"]
        self._run("initdb", "-D", self.folder / "data", "-U", "lab", "-A", "trust", "-N",
                  "--no-locale", "-E", "UTF8")
        self.start()
        for shard in range(SHARDS):
            self._migrate(shard)

    def _run(self, program, *words):
        subprocess.run([*self._as, PG_BIN / program, *words], check=True, cwd="/",
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def start(self):
        """Start it and wait until it answers."""
        self._run("pg_ctl", "-D", self.folder / "data", "-w", "-l", self.folder / "log", "-o",
                  f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1 -c fsync=off "
                  "-c max_connections=100 -c shared_buffers=16MB", "start")

    def stop(self):
        """Stop it at once."""
        self._run("pg_ctl", "-D", self.folder / "data", "-m", "immediate", "-w", "stop")

    def url(self, shard):
        """libpq connection string of a shard."""
        return f"host=127.0.0.1 port={self.port} user=lab dbname=shard_{shard}"

    def _migrate(self, shard):
        self._sql("dbname=postgres host=127.0.0.1 user=lab "
                  f"port={self.port}", f"CREATE DATABASE shard_{shard}")
        for line in (ROOT / "sql/sqitch.plan").read_text(encoding="utf-8").splitlines():
            if line and line[0] not in "%#@":
                script = ROOT / "sql/deploy" / f"{line.split()[0]}.sql"
                subprocess.run(["psql", "-q", "-X", "-v", "ON_ERROR_STOP=1", "-d", self.url(shard)],
                               input=script.read_bytes(), check=True, stdout=subprocess.DEVNULL)

    @staticmethod
    def _sql(url, statement, *arguments):
        connection = psycopg2.connect(url)
        connection.autocommit = True
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement, arguments)
                return cursor.fetchall() if cursor.description else None
        finally:
            connection.close()

    def sql(self, shard, statement, *arguments):
        """Run a statement on a shard; its rows."""
        return self._sql(self.url(shard), statement, *arguments)

    def prepared(self, shard, statement, *arguments):
        """Run a statement with $1, $2, … on a shard."""
        connection = psycopg2.connect(self.url(shard))
        connection.autocommit = True
        try:
            with connection.cursor() as cursor:
                cursor.execute(f"PREPARE q AS {statement}")
                cursor.execute(f"EXECUTE q ({', '.join(['%s'] * len(arguments))})", arguments)
        finally:
            connection.close()

    def job(self, job_id):
        """A job's row."""
        names = ["status", "attempts", "stalled", "fence", "result", "error", "progress"]
        rows = self.sql(shard_of(job_id), f"SELECT {', '.join(names)} FROM jobs WHERE id = %s",
                        job_id)
        return collections.namedtuple("Job", names)(*rows[0])

    def close(self):
        """Stop it and drop its data."""
        self.stop()
        shutil.rmtree(self.folder)


class Mail:
    """A mail server that holds, refuses or takes mails by the address they are for."""

    def __init__(self):
        self.port = free_port()
        self.taken = collections.Counter()  # Message-ID -> how often it was taken
        self.messages = []
        self.arrived = collections.Counter()  # address -> how often DATA was sent
        self.refused = collections.Counter()  # address -> how often RCPT was refused
        self.gate = threading.Event()
        self._controller = Controller(self, hostname="127.0.0.1", port=self.port)
        self._controller.start()
        self.url = f"smtp://127.0.0.1:{self.port}"

    async def handle_RCPT(self, _server, _session, envelope, address, _options):
        """nobody-…: there is no such mailbox."""
        if address.lower().startswith("nobody-"):
            self.refused[address.lower()] += 1
            return "550 5.1.1 no such mailbox"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _server, _session, envelope):
        """hold-…: until the gate opens. refuse-…: 550. later-…: 451 twice. else take it."""
        to = envelope.rcpt_tos[0]
        self.arrived[to] += 1
        if to.startswith("hold-"):
            while not self.gate.is_set():
                await asyncio.sleep(0.01)
        if to.startswith("refuse-"):
            return "550 no such mailbox"
        if to.startswith("later-") and self.arrived[to] <= 2:
            return "451 come again"
        message = email.message_from_bytes(envelope.original_content, policy=email.policy.default)
        self.taken[message["Message-ID"]] += 1
        self.messages.append((to, message))
        return "250 OK"

    def stop(self):
        """End it; what is held is let go."""
        self.gate.set()
        self._controller.stop()


class Process:
    """A program of ours with its log."""

    def __init__(self, program, arguments, env, log):
        self._log = pathlib.Path(log)
        with open(self._log, "wb") as out:
            self._process = subprocess.Popen([program, *arguments], stdout=out, stderr=out, env=env)

    @property
    def lines(self):
        """Its log lines so far."""
        text = self._log.read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]

    def jobs(self, job_id):
        """How its attempts of a job ended."""
        return [line["status"] for line in self.lines
                if line.get("event") == "job" and line["jobId"] == job_id]

    def lives(self):
        """Does it?"""
        return self._process.poll() is None

    def signal(self, number):
        """Send a signal."""
        self._process.send_signal(number)

    def kill(self):
        """kill -9."""
        self._process.kill()
        self._process.wait()

    def stop(self, seconds=20):
        """SIGTERM; its exit status."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
        return self._process.wait(seconds)


class Driver:
    """loadtest/queue_driver."""

    def __init__(self, program, redis_url=None, env=None, **settings):
        urls = {"REDIS_URL": redis_url} if redis_url else {}
        self._process = subprocess.Popen(
            [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
            env={**(env or {}), **urls, **{k: str(v) for k, v in settings.items()}})

    def __call__(self, *words):
        self._process.stdin.write(" ".join(str(word) for word in words) + "\n")
        answer = {}
        while "ok" not in answer:  # else it is a line of the log
            line = self._process.stdout.readline()
            assert line, f"the driver ended with {self._process.wait()}"
            answer = json.loads(line)
        assert answer["ok"], answer
        return answer

    def push(self, kind, user=None, delay_ms=0, job=None):
        """Push a job; its id."""
        job = job or owned_id(user)
        self("push", kind, job, user or "-", delay_ms)
        return job

    def fetch(self, queue, count=1, kind="*", worker="w"):
        """The leases that a worker gets."""
        return self("fetch", queue, worker, count, kind)["leases"]

    def finish(self, lease, end="done", delay_ms=0):
        """End a lease."""
        self("finish", lease["type"], lease["job"], lease["token"], end, delay_ms)

    def close(self):
        """End it; it must end well."""
        self._process.stdin.close()
        assert self._process.wait(10) == 0
        self._process.stdout.close()


class Lab:
    """All of it, with settings that make waits short."""

    settings = {"JOB_LEASE_MS": "1000", "JOB_HEARTBEAT_MS": "100", "JOB_BACKOFF_MS": "50",
                "JOB_BACKOFF_MAX_MS": "200", "SCHEDULER_TICK_MS": "100", "WORKER_THREADS": "2",
                "SHARD_COUNT": str(SHARDS), "MAIL_FROM": "Max Booster <no-reply@example.org>",
                "PUBLIC_URL": "https://booster.example.org", "S3_RETRIES": "0",
                "S3_TIMEOUT_MS": "500"}

    def __init__(self, folder, programs):
        self.folder = pathlib.Path(folder)
        (self.worker_program, self.scheduler_program, self.ctl_program,
         self.driver_program) = programs
        self.redis = Redis(self.folder / "redis")
        self.driver = Driver(self.driver_program, self.redis.url)
        self.postgres = Postgres()
        self.mail = Mail()
        self.processes = []

    def env(self, **settings):
        """Configuration of a process."""
        urls = {f"DATABASE_SHARD_{shard:02d}_URL": self.postgres.url(shard)
                for shard in range(SHARDS)}
        return {**self.settings, **urls, "REDIS_URL": self.redis.url, "SMTP_URL": self.mail.url,
                "S3_ENDPOINT": f"http://127.0.0.1:{free_port()}", **settings}

    def _start(self, program, name, *arguments, **settings):
        log = self.folder / f"{name}-{len(self.processes)}.log"
        process = Process(program, arguments, self.env(**settings), log)
        self.processes.append(process)
        return process

    def worker(self, queues="email", **settings):
        """A running worker."""
        worker = self._start(self.worker_program, "worker", "--queues", queues, **settings)
        wait_until(lambda: any(line["event"] == "start" for line in worker.lines), 10, "worker")
        return worker

    def scheduler(self, **settings):
        """A running scheduler."""
        return self._start(self.scheduler_program, "scheduler", **settings)

    def ctl(self, *words):
        """Run maxboosterctl; what it prints."""
        done = subprocess.run([self.ctl_program, *words], env=self.env(), check=True, text=True,
                              stdout=subprocess.PIPE)
        return done.stdout

    def row(self, payload, kind="email-send", user=None, job=None, push=True):
        """A jobs row, pushed as the API does it; its id. A push that fails is lost."""
        job = job or owned_id(user)
        self.postgres.sql(shard_of(job), "INSERT INTO jobs (id, user_id, type, payload) "
                          "VALUES (%s, %s, %s, %s)", job, user, kind, json.dumps(payload))
        if push:
            with contextlib.suppress(AssertionError):
                self.driver.push(kind, user, job=job)
        return job

    def welcome(self, address, push=True):
        """A job that sends one mail."""
        return self.row({"template": "welcome", "email": address, "name": "Jörg <b>"}, push=push)

    def ends(self, job, status="completed", seconds=30):
        """Wait until the job is in that state; its row."""
        def row():
            found = self.postgres.job(job)
            return found if found.status == status else None
        return wait_until(row, seconds, f"job {job} is {status}")

    def times_sent(self, job):
        """How often the mail of a job was taken."""
        return self.mail.taken[f"<{job}@example.org>"]

    def reset(self):
        """End the programs and empty the stores, between two tests."""
        self.mail.gate.set()
        for process in self.processes:
            process.kill()
        self.processes.clear()
        self.mail.gate.clear()
        self.redis.client.flushall()
        for shard in range(SHARDS):
            self.postgres.sql(shard, "TRUNCATE jobs, job_logs, crons, users, emails, "
                              "email_suppressions, password_resets, idempotency, audio_files, "
                              "uploads")

    def close(self):
        """End all."""
        self.mail.gate.set()
        for process in self.processes:
            process.kill()
        self.driver.close()
        self.mail.stop()
        self.postgres.close()
        self.redis.kill()
