"""A running stack: address, configuration, processes, and the faults a test can cause in it."""
import collections
import concurrent.futures
import contextlib
import fcntl
import json
import os
import pathlib
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.parse
import xmlrpc.client

import psycopg2
import redis
import requests
from supervisor.xmlrpc import SupervisorTransport

from . import apilab, fired, waits
from .client import Client, User
from .s3client import s3_client

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "deploy"))

from stack import procs  # noqa: E402  (deploy/stack, found by the path above)

HOW_TO_RUN = """The integration tests need a running stack.
    make test                      starts one of its own, as does
    deploy/run-integration-tests   with pytest's arguments; and one that is up is used by
    MB_URL=http://127.0.0.1:8080 MB_STACK_DIR=.data/default pytest integration"""
READY_S = 60


class Stack:
    """One stack, found by its folder and address."""

    def __init__(self, url, folder, s3_url=None, metrics_url=None):
        self.url = url.rstrip("/")
        self.port = urllib.parse.urlsplit(self.url).port
        self.s3_url = s3_url or f"http://127.0.0.1:{self.port + 1}"
        self.metrics_url = metrics_url or f"http://127.0.0.1:{self.port + 2}/metrics"
        self.folder = pathlib.Path(folder).resolve()

    @classmethod
    def from_environment(cls):
        """The stack that the environment names; None where it names none."""
        url, folder = os.environ.get("MB_URL"), os.environ.get("MB_STACK_DIR")
        if not url or not folder:
            return None
        return cls(url, folder, os.environ.get("MB_S3_URL"), os.environ.get("MB_METRICS_URL"))

    @property
    def env(self):
        """The configuration that the programs of the stack read."""
        values = {}
        for line in (self.folder / "stack.env").read_text().splitlines():
            name, equals, value = line.partition("=")
            if equals and re.fullmatch(r"[A-Z][A-Z0-9_]*", name):
                values[name] = value.strip()
        return values

    # Clients

    def client(self, **options):
        """A client that is not logged in."""
        return Client(self.url, **options)

    def user(self, **options):
        """A new account, logged in."""
        return User(self.url, **options)

    # What is inside

    def shard_urls(self):
        """libpq strings of all shards, in order."""
        env = self.env
        numbered = {int(m.group(1)): v for k, v in env.items()
                    if (m := re.fullmatch(r"DATABASE_SHARD_(\d+)_URL", k))}
        count = int(env.get("SHARD_COUNT", "1"))
        return [numbered.get(n) or env["DATABASE_URL"] for n in range(count)]

    def shard_of(self, some_id):
        """The shard of an owned id or of a user id (contract, section 5)."""
        import hashlib
        place = some_id[:8]
        if some_id[14] == "7":
            place = hashlib.sha256(some_id.encode()).hexdigest()[:8]
        return int(place, 16) % int(self.env.get("SHARD_COUNT", "1"))

    def sql(self, shard, statement, *arguments):
        """Run a statement on one shard; its rows, if it has any."""
        with contextlib.closing(psycopg2.connect(self.shard_urls()[shard],
                                                 connect_timeout=5)) as connection:
            with connection, connection.cursor() as cursor:
                cursor.execute(statement, arguments)
                return cursor.fetchall() if cursor.description else []

    def server_of(self, shard):
        """The program of the PostgreSQL server that has a shard."""
        port = re.search(r"port=(\d+)", self.shard_urls()[shard]).group(1)
        return next(p for p in self.programs_of("postgres") if re.search(
            rf"^port = {port}$", (self.folder / f"conf/{p}.conf").read_text(), re.M))

    def server_sql(self, program, statement, *arguments):
        """Run a statement on a PostgreSQL server, primary or replica, as its superuser."""
        conf = (self.folder / f"conf/{program}.conf").read_text()
        secrets = json.loads((self.folder / "conf/secrets.json").read_text())
        connection = psycopg2.connect(
            host=os.path.dirname(self.fastcgi_socket()), user="postgres", dbname="postgres",
            port=re.search(r"^port = (\d+)$", conf, re.M).group(1), connect_timeout=5,
            password=secrets["postgres_admin"], options="-c statement_timeout=20s")
        with contextlib.closing(connection):
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement, arguments)
                return cursor.fetchall() if cursor.description else []

    def redis(self):
        """A client of Redis, or of the whole cluster."""
        url = self.env["REDIS_URL"].split(",")[0]
        kind = redis.RedisCluster if self.is_redis_cluster else redis.Redis
        return kind.from_url(url, socket_timeout=5)

    def s3(self, url=None):
        """A client of S3 with the stack's own keys; url: another way to it than the programs'."""
        env = self.env
        return s3_client(url or env["S3_ENDPOINT"], env["AWS_REGION"], env["AWS_ACCESS_KEY_ID"],
                         env["AWS_SECRET_ACCESS_KEY"])

    def redis_nodes(self):
        """A client for each Redis by itself: {program: client}."""
        urls = self.env["REDIS_URL"].split(",")
        return {name: redis.Redis.from_url(url, socket_timeout=5)
                for name, url in zip(self.programs_of("redis"), urls, strict=True)}

    @property
    def is_redis_cluster(self):
        """Is Redis a cluster here?"""
        return self.env.get("REDIS_CLUSTER_NODES", "0") != "0"

    @property
    def phase(self):
        """The phase whose topology this is."""
        return int(self.env["PHASE"])

    def ctl(self, *words, text=None):
        """Run maxboosterctl of the stack; the finished process."""
        env = {"CONFIG_FILE": str(self.folder / "stack.env"), "PATH": os.environ["PATH"]}
        return subprocess.run([str(self.folder / "bin/maxboosterctl"), *words], env=env, input=text,
                              capture_output=True, text=True, timeout=30, check=False)

    def metrics_of_instances(self):
        """{name with labels: value} of each instance."""
        found = []
        for n, _ in enumerate(self.programs_of("api"), 1):
            text = Client(f"http://127.0.0.1:{self.port + 20 + n}").get("/metrics", expect=200).text
            found.append(fired.samples(text))
        return found

    def note_fired(self):
        """Into the record: which metrics and log fields of this stack have fired by now."""
        if not (self.folder / "conf/programs.json").exists():
            return  # somebody else has dropped it
        if self.programs_of("replica"):
            fired.note(["has:replicas"])
        with contextlib.suppress(OSError, AssertionError):
            self.metrics_of_instances()
        for program in self.programs_of("worker") + self.programs_of("scheduler"):
            with contextlib.suppress(OSError, AssertionError):
                fired.samples(Client(f"http://127.0.0.1:{self.port + 2}").get(
                    f"/metrics/{program}", expect=200, checked=False).text)
        fired.note_fields([f for f in self.log_files() if re.match("api|worker|scheduler", f.name)],
                          fired.documented_fields())

    def metrics(self):
        """The same, summed over the instances."""
        total = collections.Counter()
        for values in self.metrics_of_instances():
            for name, value in values.items():
                total[name] += value
        return total

    def log_files(self):
        """All log files of the stack."""
        return sorted(p for p in (self.folder / "log").rglob("*") if p.is_file())

    def log_lines(self, request_id, seconds=10):
        """The API's JSON lines of a request (waited for)."""
        needle = json.dumps(request_id)

        def found():
            lines = []
            for file in self.log_files():
                if "api" not in file.name:
                    continue
                with open(file, encoding="utf-8", errors="strict") as text:
                    lines += [line for line in text if needle in line]
            return lines
        return [json.loads(line) for line in
                waits.wait_until(found, seconds, f"log line of request {request_id}")]

    def programs(self):
        """The programs as the stack starts them: {name: {argv, cwd, …}}."""
        return json.loads((self.folder / "conf/programs.json").read_text())["programs"]

    def programs_of(self, kind):
        """Names of the programs of a kind: api, worker, scheduler, redis, postgres (the primaries),
        replica, s3, nginx."""
        return [n for n in self.programs() if re.fullmatch(rf"{kind}(-[a-z]+)*(-\d+)?", n)]

    def fastcgi_sockets(self):
        """Paths of the unix sockets that the instances listen on."""
        programs = self.programs()
        argvs = [programs[name]["argv"] for name in self.programs_of("api")]
        return [words[words.index("-s") + 1] for words in argvs]

    def fastcgi_socket(self):
        """The first one's."""
        return self.fastcgi_sockets()[0]

    # Processes

    def processes(self, program):
        """The living processes of a program, by its name in conf/programs.json."""
        folders = {p["folder"]: n for n, p in self.programs().items() if p["folder"]}
        every = {p.pid: p for p in procs.of_stack(str(self.folder), folders)}
        mine = {pid for pid, p in every.items() if p.program == program}
        # postgres and nginx children hide their environment; they belong to who started them.
        grew = True
        while grew:
            more = {pid for pid, p in every.items() if p.ppid in mine} - mine
            mine |= more
            grew = bool(more)
        return [every[pid] for pid in sorted(mine)]

    def main_process(self, program):
        """The process of a program that has no parent among its own."""
        mine = self.processes(program)
        pids = {p.pid for p in mine}
        tops = [p for p in mine if p.ppid not in pids]
        assert len(tops) == 1, f"{program}: {[(p.pid, p.text) for p in mine]}"
        return tops[0]

    def api_workers(self):
        """The API processes of all instances themselves, without what starts them."""
        return [p for name in self.programs_of("api") for p in self.processes(name)
                if os.path.basename(p.text.split(" ")[0]) == "maxbooster-api"]

    def kill(self, pid, signal_number=signal.SIGKILL):
        """End one process, found before by this object."""
        os.kill(pid, signal_number)

    def kill_main(self, program):
        """kill -9 of the program's main process; its pid."""
        pid = self.main_process(program).pid
        self.kill(pid)
        return pid

    def kill_whole(self, program):
        """kill -9 of all processes of a program at once."""
        for process in self.processes(program):
            with contextlib.suppress(ProcessLookupError):
                self.kill(process.pid)

    def kill_api_process(self):
        """kill -9 of one API process; its pid."""
        pid = self.api_workers()[0].pid
        self.kill(pid)
        return pid

    def kill_workers(self):
        """kill -9 of every job worker."""
        return [self.kill_main(name) for name in self.programs_of("worker")][-1]

    def kill_schedulers(self):
        """kill -9 of every scheduler."""
        return [self.kill_main(name) for name in self.programs_of("scheduler")][-1]

    def _all_of(self, what):
        """Programs that make up a dependency: all of a kind, with PostgreSQL its replicas; or one
        program by its own name."""
        if what not in ("postgres", "redis", "api", "worker", "scheduler"):
            return [what]
        return self.programs_of(what) + (self.programs_of("replica") if what == "postgres" else [])

    @contextlib.contextmanager
    def frozen(self, what, alone=False):
        """All processes of a dependency, or alone of a program of that name, stand still (SIGSTOP)
        while the block runs."""
        stopped = []
        names = [what] if alone else self._all_of(what)
        try:
            for process in [p for name in names for p in self.processes(name)]:
                os.kill(process.pid, signal.SIGSTOP)
                stopped.append(process.pid)
            assert stopped, f"{what}: no process found"
            yield
        finally:
            for pid in stopped:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    @contextlib.contextmanager
    def stopped(self, what):
        """A dependency or program is stopped, and not started again, while the block runs."""
        supervisor, names = self._supervisor(), self._all_of(what)
        for name in names:
            supervisor.stopProcess(name)
        try:
            yield
        finally:
            for name in names:
                supervisor.startProcess(name)

    def run(self, command, *words, programs=None):
        """make COMMAND of this stack, with the bin of another folder; the finished process."""
        return _stack_tool(programs or self.folder, command, [f"STACK={self.folder.name}", *words])

    def make(self, command, *words):
        """make COMMAND of this stack; what it said."""
        done = self.run(command, *words)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def _supervisor(self):
        """supervisord's own interface."""
        path = os.path.join(os.path.dirname(self.fastcgi_socket()), "supervisor.sock")
        transport = SupervisorTransport(None, None, serverurl=f"unix://{path}")
        return xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport).supervisor

    # Readiness

    def status(self):
        """The reply of /api/system/status, whatever it is; None where nothing answers."""
        try:
            return requests.get(self.url + "/api/system/status", timeout=10)
        except requests.RequestException:
            return None

    @staticmethod
    def _is_ready(path):
        """Does the instance at that socket say so?"""
        with contextlib.suppress(OSError):
            return apilab.directly(path, "GET", "/api/system/status")[0] == 200
        return False

    def wait_ready(self, seconds=READY_S):
        """Wait until the stack says that it is ready, and each of its instances, past the proxy."""
        def are_ready():
            reply = self.status()
            return reply is not None and reply.status_code == 200 and all(
                self._is_ready(path) for path in self.fastcgi_sockets())
        return waits.wait_until(are_ready, seconds, f"{self.url} to be ready", every=0.1)


def wait_steady(client, path="/api/auth/me", seconds=60):
    """Wait until many requests at once, enough for every thread, are all answered by 200. Slowly, so
    that the limiter of a private stack (20 requests a second) does not answer instead."""
    def all_well():
        clients = [Client(client.base_url, client.address, client.token) for _ in range(16)]
        with concurrent.futures.ThreadPoolExecutor(len(clients)) as pool:
            statuses = list(pool.map(lambda c: [c.get(path).status for _ in range(2)], clients))
        assert all(status == 200 for pair in statuses for status in pair), statuses
        return True
    waits.wait_until(all_well, seconds, f"{path} to be answered by every thread", every=2)


@contextlib.contextmanager
def free_port_base():
    """A PORT_BASE whose hundred ports are free, below those that the kernel gives out; locked
    as deploy/run-integration-tests does it, so that nobody else chooses it meanwhile."""
    for base in random.sample(range(20000, 32600, 100), 126):
        lock = pathlib.Path(tempfile.gettempdir(), f"maxbooster-ports-{base}.lock")
        with contextlib.ExitStack() as held:
            try:
                file = held.enter_context(open(lock, "w", encoding="ascii"))
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                with contextlib.ExitStack() as sockets:
                    for port in range(base, base + 100):
                        sockets.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            yield base
            return
    raise AssertionError("no free range of ports")


def drop_private_stacks(like):
    """What a worker that was ended early has left of its private stack."""
    left = (ROOT / ".data").glob(f"{like.folder.name}-private-*") if like else []
    for folder in left:
        subprocess.run([str(ROOT / "deploy/stack.py"), "clean-data", f"STACK={folder.name}"],
                       stdin=subprocess.DEVNULL, capture_output=True, timeout=120, check=False)


@contextlib.contextmanager
def private_stack(like, mark, **variables):
    """A stack of its own, of the same programs and topology as another one, gone with its data at
    the end."""
    servers = min(len(like.programs_of("postgres")), int(variables.get("SHARD_COUNT", 1)))
    variables = {"PHASE": like.phase, "DB_SERVERS": servers, **variables}
    with free_port_base() as base:
        yield from _run_stack(like, f"{like.folder.name}-private-{mark}", base, variables)


def _stack_tool(programs, command, words):
    """deploy/stack.py, free of what make or a shell has set; programs: folder whose bin to run."""
    unwanted = ("STACK", "PORT_BASE", "TIER", "PHASE", "DB_SERVERS", "MAKEFLAGS", "MFLAGS",
                "MAKELEVEL")
    env = {k: v for k, v in os.environ.items() if k not in unwanted}
    env["MB_BIN"] = str(programs / "bin")
    return subprocess.run([str(ROOT / "deploy/stack.py"), command, *words], env=env,
                          capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=240,
                          check=False)


def _run_stack(like, name, base, variables):
    words = [f"STACK={name}", f"PORT_BASE={base}"] + [f"{k}={v}" for k, v in variables.items()]
    try:
        up = _stack_tool(like.folder, "up", words)
        assert up.returncode == 0, up.stdout + up.stderr
        stack = Stack(f"http://127.0.0.1:{base}", ROOT / ".data" / name)
        stack.wait_ready()
        yield stack
        stack.note_fired()
    finally:
        _stack_tool(like.folder, "clean-data", words[:1])
