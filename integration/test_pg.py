"""lib/pg over a PostgreSQL of its own: leases, limits, faults; and the queries against the schema.

A small C program (loadtest/pg_driver) speaks for the library; several of them on one shared memory
file are an instance."""
import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

import psycopg2
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = os.environ.get("B", "build")
PG_BIN = pathlib.Path("/usr/lib/postgresql/15/bin")
sys.path.insert(0, str(ROOT / "tools"))
import gen_queries  # noqa: E402  (the generator is not a package)


def free_port():
    """A port that is free now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    """A PostgreSQL in a folder of its own; as root it runs as user postgres."""

    def __init__(self):
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


@pytest.fixture(scope="module", name="program")
def build_program():
    """The driver, built with the Makefile's own flags."""
    target = f"{BUILD}/loadtest/pg_driver"
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    subprocess.run(["make", "-s", f"B={BUILD}", target], cwd=ROOT, check=True,
                   stdin=subprocess.DEVNULL, env=env)
    return str(ROOT / target)


@pytest.fixture(scope="module", name="server")
def start_server():
    server = Server()
    try:
        server.sql("CREATE ROLE app LOGIN")
        server.sql("CREATE DATABASE driver OWNER app")
        server.sql("CREATE TABLE driver (id bigint PRIMARY KEY);"
                   "CREATE TABLE driver_log (id bigint GENERATED ALWAYS AS IDENTITY);"
                   "GRANT ALL ON driver, driver_log TO app", database="driver")
        yield server
    finally:
        server.close()


@pytest.fixture(name="shm")
def shared_memory():
    path = pathlib.Path(f"/dev/shm/maxbooster-test-pg-{os.getpid()}")
    path.unlink(missing_ok=True)
    yield path
    path.unlink(missing_ok=True)


@pytest.fixture(name="driver")
def make_driver(program, server, shm):
    """Makes drivers and ends them."""
    made = []

    def make(**variables):
        made.append(Driver(program, server, shm, **variables))
        return made[-1]

    yield make
    for driver in made:
        driver.close()


def wait_until(condition, seconds, what):
    """Poll, with an end."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"waited {seconds} s for {what}"
        time.sleep(0.02)


# --- The ordinary. ---

def test_reads_writes_and_transactions(driver):
    d = driver()
    assert d("read 0")["error"] == "OK"
    before = d("write 0")["db_count"]
    assert d("begin 0")["db_count"] == before  # BEGIN travels with the first statement
    assert d("write 0")["db_count"] == before + 1
    assert d("commit 0")["error"] == "OK"
    assert d("conflict 0")["error"] == "CONFLICT"
    assert d("read 0")["error"] == "OK"
    assert d("state 0")["connects"] == 1


def test_a_rollback_takes_back(driver, server):
    d = driver()
    count = "SELECT count(*) FROM driver_log"
    before = server.sql(count, database="driver")
    for end in ("rollback 0", "release", "scope 1000"):
        d("begin 0")
        assert d("append 0")["error"] == "OK"
        d(end)
    assert server.sql(count, database="driver") == before
    assert d("state 0")["open"] == 1  # and the connection was fit to be used again


def test_an_error_in_a_transaction_lets_nothing_be_committed(driver, server):
    d = driver()
    before = server.sql("SELECT count(*) FROM driver_log", database="driver")
    d("begin 0")
    assert d("append 0")["error"] == "OK"
    assert d("conflict 0")["error"] == "CONFLICT"
    assert d("commit 0")["error"] == "INTERNAL"
    assert server.sql("SELECT count(*) FROM driver_log", database="driver") == before
    assert d("append 0")["error"] == "OK"


def test_a_statement_ends_at_its_time_limit(driver):
    d = driver(DB_STATEMENT_TIMEOUT_MS=200)
    reply = d("sleep 0 5000")
    assert reply["error"] == "TIMED_OUT" and 150 <= reply["ms"] < 700
    assert d("read 0")["error"] == "OK"
    assert d("state 0")["losses"] == 0  # the server said it; the connection is good


def test_no_wait_goes_past_the_scopes_deadline(driver):
    d = driver()
    d("read 0")
    d("scope 150")
    reply = d("sleep 0 5000")
    assert reply["error"] == "TIMED_OUT" and reply["ms"] < 400
    assert d("read 0")["error"] == "TIMED_OUT"
    d("scope 5000")
    assert d("read 0")["error"] == "OK"


def test_idle_connections_are_closed(driver):
    d = driver(DB_IDLE_TIMEOUT=1000)
    d("read 0")
    d("release")
    wait_until(lambda: d("state 0")["open"] == 0, 5, "the idle connection to be closed")


# --- The pool, over processes. ---

def test_leases_count_over_all_processes(driver):
    holders = [driver(DB_POOL_SIZE=3) for _ in range(3)]
    for d in holders:
        assert d("read 0")["error"] == "OK"
    late = driver(DB_POOL_SIZE=3)
    reply = late("read 0")
    assert reply["error"] == "POOL_SATURATED" and 45 <= reply["ms"] < 500
    assert late("state 0")["leases"] == 3
    assert late("ping 0")["error"] == "OK"  # a full pool is not a dead database
    holders[0]("release")
    assert late("read 0")["error"] == "OK"


def test_new_work_waits_above_the_threshold_and_holders_go_on(driver):
    d = driver(DB_POOL_SIZE=4, POOL_UTILIZATION_THRESHOLD=50)
    others = [driver(DB_POOL_SIZE=4, POOL_UTILIZATION_THRESHOLD=50) for _ in range(2)]
    assert d("read 0")["error"] == "OK"
    assert others[0]("read 0")["error"] == "OK"
    assert others[1]("read 0")["error"] == "POOL_SATURATED"
    assert d("read 0")["error"] == "OK"


def test_a_waiter_gets_the_lease_that_becomes_free(driver):
    a, b = (driver(DB_POOL_SIZE=1, POOL_WAIT_MS=5000) for _ in range(2))
    assert a("read 0")["error"] == "OK"
    b.send("read 0")
    wait_until(lambda: a("state 0")["leases"] == 1, 1, "the lease")
    time.sleep(0.2)  # the wait itself is what is measured
    a("release")
    reply = b.receive()
    assert reply["error"] == "OK" and 150 <= reply["pool_wait_us"] / 1000 < 1000


def test_saturation_over_processes_refuses_in_time_and_never_oversteps(driver, server):
    drivers = [driver(DB_POOL_SIZE=4) for _ in range(3)]
    most = 0
    for d in drivers:
        d.send("run read 0 8 1500 2000 20")
    until = time.monotonic() + 1.2
    while time.monotonic() < until:
        rows = server.sql("SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'")
        most = max(most, rows[0][0])
    replies = [d.receive() for d in drivers]
    outcomes = [r["outcomes"] for r in replies]
    assert all(set(o) <= {"OK", "POOL_SATURATED"} for o in outcomes), outcomes
    assert sum(o["OK"] for o in outcomes) > 100
    assert sum(o.get("POOL_SATURATED", 0) for o in outcomes) > 0
    assert max(r["slowest_ms"] for r in replies) < 600
    # 4 leases, and each process may keep up to 4 idle; a backend whose client has closed is seen a
    # moment longer, at most one of each process.
    assert most <= 12 + 3
    assert drivers[0]("state 0")["leases"] == 0


def test_leases_of_a_killed_process_come_back(driver):
    victim, d = driver(DB_POOL_SIZE=1), driver(DB_POOL_SIZE=1)
    assert victim("read 0")["error"] == "OK"
    assert d("read 0")["error"] == "POOL_SATURATED"
    victim.process.kill()
    victim.process.wait()
    wait_until(lambda: d("read 0")["error"] == "OK", 3, "the lease of the killed process")


def test_open_connections_stay_below_their_limit(driver, server):
    limits = {"DB_POOL_SIZE": 2, "DB_MAX_CONNECTIONS": 3, "POOL_UTILIZATION_THRESHOLD": 100,
              "POOL_WAIT_MS": 1500}
    drivers = [driver(**limits) for _ in range(4)]
    for d in drivers:  # each keeps one idle, were it not for the limit
        assert d("read 0")["error"] == "OK"
        d("release")
    rows = server.sql("SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'")
    assert rows[0][0] <= 3


def test_without_a_usable_file_the_limit_is_the_processs_own(driver, shm):
    shm.write_text("not ours")
    d = driver(DB_POOL_SIZE=1)
    assert d("read 0")["error"] == "OK"
    assert d("state 0")["shared"] is False
    assert shm.read_text() == "not ours"


# --- Faults. ---

def test_a_killed_backend_is_not_noticed_by_reads(driver, server):
    d = driver()
    for _ in range(5):
        d("read 0")
        server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'")
        assert d("read 0")["error"] == "OK"
    d("release")
    server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'")
    time.sleep(0.1)  # longer than an idle connection is trusted without a look
    assert d("append 0")["error"] == "OK"  # an idle connection that was closed is seen before use


def test_a_backend_killed_under_a_write_makes_its_outcome_unknown(driver, server):
    d = driver()
    d("append 0")
    server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'")
    assert d("append 0")["error"] == "WRITE_UNKNOWN"
    assert d("append 0")["error"] == "OK"


def test_a_backend_killed_in_a_transaction_ends_it(driver, server):
    d = driver()
    before = server.sql("SELECT count(*) FROM driver_log", database="driver")
    d("begin 0")
    assert d("append 0")["error"] == "OK"
    server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'")
    assert d("append 0")["error"] == "DEPENDENCY_UNAVAILABLE"
    assert d("append 0")["error"] == "DEPENDENCY_UNAVAILABLE"  # not outside of it by mistake
    assert d("commit 0")["error"] == "DEPENDENCY_UNAVAILABLE"
    assert server.sql("SELECT count(*) FROM driver_log", database="driver") == before
    assert d("append 0")["error"] == "OK"
    d("begin 0")
    server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'")
    assert d("append 0")["error"] == "OK"  # the first statement of a transaction is safe to repeat
    server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'")
    assert d("commit 0")["error"] == "WRITE_UNKNOWN"


def test_a_server_that_is_down_is_told_at_once_and_found_again(driver, server):
    d = driver(DB_BREAKER_OPEN_MS=300)
    assert d("read 0")["error"] == "OK"
    d("release")
    server.stop()
    try:
        for _ in range(8):
            reply = d("read 0")
            assert reply["error"] == "DEPENDENCY_UNAVAILABLE" and reply["ms"] < 200
        assert d("state 0")["breaker"] == 1
        assert d("ping 0")["error"] == "DEPENDENCY_UNAVAILABLE"
    finally:
        server.start()
    wait_until(lambda: d("read 0")["error"] == "OK", 3, "the server to be found again")
    assert d("state 0")["breaker"] == 0


def test_acknowledged_writes_survive_crashes_of_the_server(driver, server):
    d = driver(DB_BREAKER_OPEN_MS=100)
    server.sql("TRUNCATE driver_log", database="driver")
    d.send("run append 0 4 3000 2000 0")
    for _ in range(2):
        time.sleep(0.7)  # the load runs meanwhile
        server.stop()
        server.start()
    outcomes = d.receive()["outcomes"]
    rows = server.sql("SELECT count(*) FROM driver_log", database="driver")[0][0]
    assert outcomes["OK"] > 100
    assert outcomes["OK"] <= rows <= outcomes["OK"] + outcomes.get("WRITE_UNKNOWN", 0)
    assert set(outcomes) <= {"OK", "WRITE_UNKNOWN", "DEPENDENCY_UNAVAILABLE"}, outcomes


def test_a_server_that_stands_still_costs_a_bounded_time(driver, server):
    d = driver(DB_STATEMENT_TIMEOUT_MS=300, DB_CONNECTION_TIMEOUT=500, DB_BREAKER_OPEN_MS=300)
    assert d("read 0")["error"] == "OK"
    with server.standing_still():
        reply = d("read 0")
        assert reply["error"] == "TIMED_OUT" and reply["ms"] < 1200
        reply = d("append 0")  # a new connection, which nobody answers
        assert reply["error"] == "DEPENDENCY_UNAVAILABLE" and reply["ms"] < 1000
        for _ in range(6):
            d("read 0")
        reply = d("read 0")
        assert reply["error"] == "DEPENDENCY_UNAVAILABLE"
        assert d("state 0")["breaker"] != 0
        d("scope 300")
        reply = d("ping 0")
        assert reply["error"] != "OK" and reply["ms"] < 500
    d("scope 10000")
    wait_until(lambda: d("read 0")["error"] == "OK", 5, "the server to answer again")


def test_a_write_without_an_answer_is_of_unknown_outcome(driver, server):
    d = driver(DB_STATEMENT_TIMEOUT_MS=300)
    assert d("append 0")["error"] == "OK"
    with server.standing_still():
        reply = d("append 0")
        assert reply["error"] == "WRITE_UNKNOWN" and reply["ms"] < 1200


def test_idle_connections_to_a_server_that_stands_still_do_not_add_up(driver, server):
    d = driver(DB_STATEMENT_TIMEOUT_MS=300, DB_CONNECTION_TIMEOUT=500, DB_POOL_SIZE=10)
    d("run read 0 8 300 2000 20")
    assert d("state 0")["open"] >= 4
    with server.standing_still():
        d("scope 4000")
        first = d("read 0")
        second = d("read 0")
        assert first["error"] != "OK" and second["error"] != "OK"
        assert first["ms"] + second["ms"] < 3500
    d("scope 5000")
    wait_until(lambda: d("read 0")["error"] == "OK", 5, "the server to answer again")


def test_a_server_without_free_connections_is_no_reason_to_drop_ours(driver, server):
    d = driver()
    assert d("read 0")["error"] == "OK"
    others = []
    try:
        with contextlib.suppress(psycopg2.OperationalError):
            while True:
                others.append(psycopg2.connect(server.url("driver", "app")))
        late = driver()
        for _ in range(8):
            reply = late("read 0")
            assert reply["error"] == "DEPENDENCY_UNAVAILABLE" and reply["ms"] < 500
        assert "too many" in reply["cause"] or "remaining connection slots" in reply["cause"]
        assert d("read 0")["error"] == "OK"
        assert late("state 0")["breaker"] == 0  # the server is there
    finally:
        for connection in others:
            connection.close()
    wait_until(lambda: late("read 0")["error"] == "OK", 5, "a free connection")


def test_a_changed_table_does_not_break_prepared_statements(driver, server):
    d = driver()
    assert d("star 0")["error"] == "OK"
    server.sql("ALTER TABLE driver_log ADD COLUMN note text", database="driver")
    try:
        assert d("star 0")["error"] == "OK"  # "cached plan must not change result type"
        d("begin 0")
        assert d("star 0")["error"] == "OK"
    finally:
        d("release")
        server.sql("ALTER TABLE driver_log DROP COLUMN note", database="driver")
    d("begin 0")
    assert d("star 0")["error"] == "OK"
    assert d("append 0")["error"] == "OK"
    assert d("commit 0")["error"] == "OK"


def test_a_dead_shard_takes_only_its_own_users(driver, server):
    dead = f"postgresql://app@127.0.0.1:{free_port()}/driver"
    d = driver(SHARD_COUNT=2, DATABASE_SHARD_01_URL=dead)
    for _ in range(8):
        assert d("read 1")["error"] == "DEPENDENCY_UNAVAILABLE"
        assert d("read 0")["error"] == "OK"
    assert d("state 1")["breaker"] == 1
    assert d("state 0")["breaker"] == 0


def test_the_victim_of_a_deadlock_may_try_again(driver, server):
    server.sql("DELETE FROM driver; INSERT INTO driver VALUES (1), (2)", database="driver")
    server.sql("ALTER DATABASE driver SET deadlock_timeout = '50ms'")
    a, b = driver(), driver()
    try:
        for d, row in ((a, 1), (b, 2)):
            d("begin 0")
            assert d(f"lock 0 {row}")["error"] == "OK"
        a.send("lock 0 2")
        b.send("lock 0 1")
        errors = sorted(d.receive()["error"] for d in (a, b))
        assert errors == ["DEPENDENCY_UNAVAILABLE", "OK"]
    finally:
        server.sql("ALTER DATABASE driver RESET ALL")
    for d in (a, b):
        d("rollback 0")
    for d in (a, b):
        d("begin 0")
        assert d("lock 0 1")["error"] == "OK"
        assert d("commit 0")["error"] == "OK"


# --- Schema and queries. ---

def sqitch(server, database, *words):
    """Run sqitch on a database; everything that it says."""
    target = f"db:pg://postgres@127.0.0.1:{server.port}/{database}"
    env = {**os.environ, "SQITCH_FULLNAME": "Test", "SQITCH_EMAIL": "t@invalid"}
    done = subprocess.run(["sqitch", *words, target], cwd=ROOT / "sql", capture_output=True,
                          text=True, check=False, stdin=subprocess.DEVNULL, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module", name="migrated")
def migrate(server):
    """A database with the schema."""
    server.sql("CREATE DATABASE migrated")
    sqitch(server, "migrated", "deploy", "--verify")
    return "migrated"


def test_every_change_can_be_deployed_verified_and_reverted(server):
    server.sql("CREATE DATABASE turned")
    listing = ("SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace"
               " WHERE nspname = 'public'")
    changes = [line for line in (ROOT / "sql/sqitch.plan").read_text().splitlines()
               if line and line[0] not in "%#@"]
    sqitch(server, "turned", "deploy", "--verify")
    for _ in changes[1:]:
        sqitch(server, "turned", "revert", "-y", "--to", "@HEAD^")
    sqitch(server, "turned", "revert", "-y")
    assert server.sql(listing, database="turned") == [(0,)]
    sqitch(server, "turned", "deploy", "--verify")
    sqitch(server, "turned", "verify")
    assert server.sql(listing, database="turned")[0][0] > len(changes)


def test_every_table_has_a_primary_key(server, migrated):
    rows = server.sql("SELECT relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace"
                      " WHERE nspname = 'public' AND relkind = 'r' AND NOT EXISTS (SELECT FROM"
                      " pg_constraint WHERE conrelid = c.oid AND contype = 'p')", database=migrated)
    assert rows == []


QUERIES, FAULTS = gen_queries.read_all(str(ROOT / "sql/queries"))


def test_the_query_files_have_no_faults():
    assert FAULTS == []


@pytest.mark.parametrize("query", QUERIES, ids=lambda q: q.name)
def test_every_query_prepares_with_its_declared_types(server, migrated, query):
    connection = psycopg2.connect(server.url(migrated))
    try:
        with connection.cursor() as cursor:
            cursor.execute(f"PREPARE q AS {query.text}")
            cursor.execute("SELECT parameter_types::text[] FROM pg_prepared_statements")
            assert cursor.fetchone()[0] == query.as_dict()["sqlTypes"]
    finally:
        connection.close()


# Reads of one row or one page must find it by an index, however large the tables are.
@pytest.mark.parametrize("query", [q for q in QUERIES if q.kind in ("one", "many")
                                   and q.text.upper().startswith(("SELECT", "UPDATE", "DELETE"))
                                   and " FROM (" not in q.text.replace("\n", " ")],
                         ids=lambda q: q.name)
def test_no_query_needs_a_sequential_scan(server, migrated, query):
    samples = {"uuid": "'01a208e7-96ec-7000-8000-000000000000'", "text": "'abc'",
               "bigint": "10", "integer": "10", "jsonb": "'{}'", "boolean": "true",
               "double precision": "1", "timestamp with time zone": "now()"}
    args = ", ".join(samples[t] for t in query.as_dict()["sqlTypes"])
    connection = psycopg2.connect(server.url(migrated))
    try:
        with connection.cursor() as cursor:
            cursor.execute("SET enable_seqscan = off")
            cursor.execute("SET plan_cache_mode = force_generic_plan")
            cursor.execute(f"PREPARE q AS {query.text}")
            cursor.execute(f"EXPLAIN EXECUTE q{f'({args})' if args else ''}")
            plan = "\n".join(row[0] for row in cursor.fetchall())
            assert "Seq Scan" not in plan, plan
    finally:
        connection.close()
