"""PostgreSQL by itself: private servers, and processes of loadtest/pg_driver, which speak for lib/pg;
several of them on one shared memory file are an instance."""
import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile

import psycopg2

from .queuelab import PG_BIN, ROOT, build, free_port


class Server:
    """A PostgreSQL in a folder of its own; as root it runs as user postgres."""

    def __init__(self, **settings):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="maxbooster-pg-", dir="/tmp"))
        self.port = free_port()
        self.prefix = []
        if os.geteuid() == 0:
            shutil.chown(self.folder, "postgres")
            self.prefix = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        self.run("initdb", "-A", "trust", "-U", "postgres", "--no-sync", "-E", "UTF8",
                 "--locale=C")
        with open(self.folder / "data/postgresql.conf", "a", encoding="utf-8") as f:
            f.write(f"port={self.port}\nlisten_addresses='127.0.0.1'\nfsync=off\n"
                    "unix_socket_directories=''\nshared_buffers=32MB\nmax_connections=30\n"
                    "superuser_reserved_connections=3\n")
            f.writelines(f"{name}={value}\n" for name, value in settings.items())
        self.start()

    def run(self, program, *args):
        """A program of PostgreSQL on the data folder; its output goes nowhere."""
        data = str(self.folder / "data")
        subprocess.run([*self.prefix, str(PG_BIN / program), "-D", data, *args], check=True,
                       cwd="/tmp", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)

    def start(self):
        self.run("pg_ctl", "start", "-w", "-l", str(self.folder / "log"))

    def stop(self):
        self.run("pg_ctl", "stop", "-w", "-m", "immediate")

    def pids(self):
        """The postmaster and all that it has started."""
        first = int((self.folder / "data/postmaster.pid").read_text().split()[0])
        out = subprocess.run(["ps", "-o", "pid=", "--ppid", str(first)], capture_output=True,
                             text=True, check=False).stdout
        return [first] + [int(word) for word in out.split()]

    @contextlib.contextmanager
    def standing_still(self):
        """All of it stopped in the middle of whatever it does."""
        pids = self.pids()
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def url(self, database="postgres", user="postgres"):
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    def sql(self, text, *args, database="postgres"):
        """Run SQL, give its rows."""
        connection = psycopg2.connect(self.url(database))
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(text, args or None)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def close(self):
        with contextlib.suppress(subprocess.CalledProcessError):
            self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


class Replica(Server):
    """A streaming replica of a server."""

    def __init__(self, primary):  # pylint: disable=super-init-not-called
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="maxbooster-pg-", dir="/tmp"))
        self.port = free_port()
        self.prefix = primary.prefix
        if os.geteuid() == 0:
            shutil.chown(self.folder, "postgres")
        self.run("pg_basebackup", "-R", "-X", "stream", "-c", "fast", "-h", "127.0.0.1", "-p",
                 str(primary.port), "-U", "postgres")
        with open(self.folder / "data/postgresql.conf", "a", encoding="utf-8") as f:
            f.write(f"port={self.port}\n")
        self.start()

    def pause(self):
        self.sql("SELECT pg_wal_replay_pause()")

    def resume(self):
        self.sql("SELECT pg_wal_replay_resume()")

    def promote(self):
        self.sql("SELECT pg_promote(true, 30)")


class Driver:
    """One pg_driver process: a line in, a line out."""

    def __init__(self, program, server, shm, **variables):
        env = {"PATH": os.environ["PATH"], "INSTANCE_SHM": str(shm),
               "DATABASE_URL": server.url("driver", "app")}
        env.update({name: str(value) for name, value in variables.items()})
        self.process = subprocess.Popen([program], env=env, text=True, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE)

    def send(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def receive(self):
        while True:
            line = self.process.stdout.readline()
            assert line, "the driver has ended"
            reply = json.loads(line)
            if "event" not in reply:  # a log line of the library
                return reply

    def __call__(self, line):
        self.send(line)
        return self.receive()

    def close(self):
        if self.process.poll() is None:
            self.process.stdin.close()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process.stdout.close()


def program():
    """The driver, built with the Makefile's own flags."""
    return str(build("loadtest/pg_driver")[0])


def driver_database(server, name):
    """A new database with the tables of drivers, and those of the map of shards."""
    server.sql(f"CREATE DATABASE {name} OWNER app")
    server.sql("CREATE TABLE driver (id bigint PRIMARY KEY);"
               "CREATE TABLE driver_log (id bigint GENERATED ALWAYS AS IDENTITY);"
               "CREATE TABLE driver_pairs (id bigint PRIMARY KEY, n bigint NOT NULL);"
               + (ROOT / "sql/deploy/shard_map.sql").read_text(encoding="utf-8") +
               "GRANT ALL ON ALL TABLES IN SCHEMA public TO app", database=name)


@contextlib.contextmanager
def driver_server():
    """A server with what drivers need."""
    server = Server()
    try:
        server.sql("CREATE ROLE app LOGIN")
        driver_database(server, "driver")
        yield server
    finally:
        server.close()


@contextlib.contextmanager
def shared_memory(suffix=""):
    """A path for an instance's shared memory."""
    path = pathlib.Path(f"/dev/shm/maxbooster-test-pg-{os.getpid()}{suffix}")
    path.unlink(missing_ok=True)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def drivers(server, shm):
    """A function that makes drivers, which end with it."""
    made = []
    binary = program()

    def make(**variables):
        made.append(Driver(binary, server, shm, **variables))
        return made[-1]

    try:
        yield make
    finally:
        for driver in made:
            driver.close()


def sqitch(server, database, *words):
    """Run sqitch on a database; everything that it says."""
    target = f"db:pg://postgres@127.0.0.1:{server.port}/{database}"
    env = {**os.environ, "SQITCH_FULLNAME": "Test", "SQITCH_EMAIL": "t@invalid"}
    done = subprocess.run(["sqitch", *words, target], cwd=ROOT / "sql", capture_output=True,
                          text=True, check=False, stdin=subprocess.DEVNULL, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
