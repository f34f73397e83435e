"""deploy/migrate.py on databases of its own: what an operator relies on, with everything that can
happen in between."""
import contextlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading

import psycopg2
import pytest

from harness import pglab
from harness.waits import wait_until

ROOT = pathlib.Path(__file__).resolve().parent.parent
TOOL = ROOT / "deploy/migrate.py"
SHARDS = 3
AT_WORK_S = 30


class Lab:
    """Three empty databases, and a folder of changes that tests write."""

    def __init__(self, server, folder):
        self.server, self.folder = server, folder
        self.names = [f"shard_{n:02d}" for n in range(SHARDS)]
        for name in self.names:
            server.sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            server.sql(f"CREATE DATABASE {name}")
        for kind in ("deploy", "revert", "verify"):
            (folder / kind).mkdir()
        (folder / "sqitch.plan").write_text("%syntax-version=1.0.0\n%project=lab\n\n")
        (folder / "sqitch.conf").write_text("[core]\n\tengine = pg\n")
        self.count = 0
        self.change("things", "CREATE TABLE things (id int PRIMARY KEY, part int)",
                    "DROP TABLE things", "SELECT id, part FROM things WHERE false")

    def change(self, name, deploy, revert, verify="SELECT 1", alone=False):
        """Add a change to the plan."""
        self.count += 1
        with open(self.folder / "sqitch.plan", "a", encoding="utf-8") as plan:
            plan.write(f"{name} 2026-01-01T00:00:{self.count:02d}Z A B <a@b.invalid> # {name}\n")
        self.script("deploy", name, deploy, alone)
        self.script("revert", name, revert, alone)
        self.script("verify", name, verify)

    def script(self, kind, name, body, alone=False):
        """Write one script."""
        end = "ROLLBACK" if kind == "verify" else "COMMIT"
        text = f"{body};\n" if alone else f"BEGIN;\n\n{body};\n\n{end};\n"
        (self.folder / kind / f"{name}.sql").write_text(f"-- {kind} {name}\n\n{text}")

    def start(self, what, **limits):
        """The tool at work."""
        env = {"PATH": os.environ["PATH"], "SHARD_COUNT": str(SHARDS),
               "DATABASE_URL": self.server.url(self.names[0])}
        env.update({f"DATABASE_SHARD_{n:02d}_URL": self.server.url(name)
                    for n, name in enumerate(self.names) if n > 0})
        env.update({k if k == "SHARD_MAP" else f"MIGRATION_{k}": str(v) for k, v in limits.items()})
        return subprocess.Popen([sys.executable, TOOL, what, "--sql", self.folder], env=env, text=True,
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT)

    def run(self, what, expect=0, **limits):
        """Run the tool to its end; its words."""
        tool = self.start(what, **limits)
        text, _ = tool.communicate(timeout=120)
        assert tool.returncode == expect, text
        return text

    def sql(self, text, *args, shard=0):
        """SQL on one database."""
        return self.server.sql(text, *args, database=self.names[shard])

    def ledger(self, shard=0):
        """Names of what is deployed."""
        if not self.sql("SELECT to_regclass('sqitch.changes') IS NOT NULL", shard=shard)[0][0]:
            return []
        return [r[0] for r in self.sql("SELECT change FROM sqitch.changes ORDER BY committed_at",
                                       shard=shard)]

    @contextlib.contextmanager
    def transaction(self, statement, shard=0):
        """A transaction that goes on while the block runs; gives the pid of its session."""
        connection = psycopg2.connect(self.server.url(self.names[shard]))
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement)
                yield connection.get_backend_pid()
        finally:
            connection.close()

    def wait_for_query(self, pattern, shard=0):
        """Wait until a session runs something like this."""
        wait_until(lambda: self.sql("SELECT 1 FROM pg_stat_activity WHERE query ~ %s AND state = "
                                    "'active' AND pid <> pg_backend_pid() AND datname = "
                                    "current_database()", pattern, shard=shard),
                   AT_WORK_S, f"a session that runs {pattern}")


@pytest.fixture(scope="module", name="server")
def _server():
    server = pglab.Server()
    yield server
    server.close()


@pytest.fixture(name="lab")
def _lab(server, tmp_path):
    return Lab(server, tmp_path)


def slow_change(lab, name="slow"):
    """A change that takes as long as a row of the database says."""
    lab.change("pace", "CREATE TABLE pace (seconds float)", "DROP TABLE pace")
    lab.run("deploy")
    for shard in range(SHARDS):
        lab.sql("INSERT INTO pace VALUES (60)", shard=shard)
    lab.change(name, f"CREATE TABLE {name} (id int);\nSELECT pg_sleep(seconds) FROM pace",
               f"DROP TABLE {name}", f"SELECT id FROM {name}")


def hurry(lab):
    """From now on it takes no time."""
    for shard in range(SHARDS):
        lab.sql("UPDATE pace SET seconds = 0", shard=shard)


# --- The ordinary. ---

def test_every_database_is_migrated_verified_and_rolled_back(lab):
    lab.change("pad", "ALTER TABLE things ADD COLUMN pad text", "ALTER TABLE things DROP COLUMN pad",
               "SELECT pad FROM things WHERE false")
    text = lab.run("status", expect=1)
    assert re.findall(r"^shard (\d\d) 2 pending: 0 of 2 changes, newest nothing$", text, re.M) == [
        "00", "01", "02"]
    assert "shard 02 ok: deployed things, pad" in lab.run("deploy")
    assert lab.run("deploy").count("ok: up to date") == SHARDS
    assert lab.run("status").count("up to date: 2 of 2 changes, newest pad") == SHARDS
    assert lab.run("verify").count("ok: verified\n") == SHARDS
    assert lab.run("rollback").count("ok: reverted pad") == SHARDS
    assert [lab.ledger(s) for s in range(SHARDS)] == [["things"]] * SHARDS
    assert lab.run("verify").count("ok: verified; 1 pending") == SHARDS
    lab.run("deploy")
    assert lab.sql("SELECT event, change FROM sqitch.events ORDER BY committed_at") == [
        ("deploy", "things"), ("deploy", "pad"), ("revert", "pad"), ("deploy", "pad")]


def test_sqitch_reads_the_ledger_and_goes_on_with_it(server):
    server.sql("DROP DATABASE IF EXISTS whole WITH (FORCE)")
    server.sql("CREATE DATABASE whole")
    env = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "LC_ALL": "C.UTF-8", "TZ": "UTC"}
    target = f"db:pg://postgres@127.0.0.1:{server.port}/whole"

    def sqitch(*words):
        done = subprocess.run(["sqitch", *words, "--target", target], env=env, text=True,
                              cwd=ROOT / "sql", capture_output=True, check=False)
        return done.stdout + done.stderr

    def ours(what):
        return subprocess.run([sys.executable, TOOL, what], env=env | {
            "DATABASE_URL": server.url("whole")}, text=True, capture_output=True, check=True).stdout
    ours("deploy")
    assert "up-to-date" in sqitch("status")
    assert "Verify successful" in sqitch("verify")
    assert "ok" in sqitch("revert", "-y", "--to", "@HEAD^")
    assert "ok: deployed" in ours("deploy")
    ours("rollback")
    assert "ok" in sqitch("deploy", "--verify")
    assert "up to date" in ours("status")


def test_what_does_not_verify_is_not_done(lab):
    lab.change("bad", "CREATE TABLE bad (id int)", "DROP TABLE bad", "SELECT nothing FROM bad")
    text = lab.run("deploy", expect=1)
    assert "bad: column \"nothing\" does not exist" in text and "nothing of it is done" in text
    assert lab.ledger() == ["things"]
    assert lab.sql("SELECT to_regclass('bad')") == [(None,)]


def test_verifying_tells_what_is_gone(lab):
    lab.run("deploy")
    lab.sql("ALTER TABLE things DROP COLUMN part", shard=1)
    text = lab.run("verify", expect=1)
    assert "shard 00 ok" in text and "shard 01 failed: things does not verify" in text


def test_a_rollback_reverts_the_newest_change_and_no_older_one(lab):
    """A shard that a deployment has not reached keeps what it has."""
    lab.change("pad", "ALTER TABLE things ADD COLUMN pad text", "ALTER TABLE things DROP COLUMN pad")
    lab.sql("CREATE TABLE things (other int)", shard=2)
    lab.run("deploy", expect=1)
    assert lab.ledger(2) == []
    text = lab.run("rollback")
    assert text.count("reverted pad") == 2 and "shard 02 ok: had no pad" in text
    assert [lab.ledger(s) for s in range(SHARDS)] == [["things"], ["things"], []]


def test_a_database_of_several_shards_is_migrated_once(lab):
    text = lab.run("deploy", SHARD_MAP="0,1,1")
    assert text.count("ok: deployed things") == 3  # a line a shard
    assert [lab.ledger(s) for s in range(SHARDS)] == [["things"], ["things"], []]
    assert lab.run("rollback", SHARD_MAP="0,1,1").count("ok: reverted things") == 3
    assert "SHARD_MAP must name 3 databases" in lab.run("status", expect=1, SHARD_MAP="0,1")


def test_a_database_that_a_shard_has_moved_to_is_migrated(lab, server):
    server.sql("DROP DATABASE IF EXISTS moved WITH (FORCE)")
    server.sql("CREATE DATABASE moved")
    lab.run("deploy")
    lab.sql("CREATE TABLE shard_map (epoch bigint PRIMARY KEY, map jsonb NOT NULL)")
    places = [f"host=127.0.0.1 port={server.port} dbname={n}" for n in (*lab.names[:2], "moved")]
    lab.sql("INSERT INTO shard_map VALUES (2, %s)", json.dumps(
        {"shardCount": 3, "databases": [{"location": p} for p in places], "shards": [0, 1, 2]}))
    assert "shard 02 ok: deployed things" in lab.run("deploy")
    assert server.sql("SELECT change FROM sqitch.changes", database="moved") == [("things",)]


# --- A lock that somebody holds. ---

def test_nobody_queues_behind_a_migration_that_waits_for_a_long_transaction(lab):
    lab.run("deploy")
    lab.change("pad", "ALTER TABLE things ADD COLUMN pad text", "ALTER TABLE things DROP COLUMN pad")
    reads = 0
    with lab.transaction("SELECT * FROM things", shard=1):
        tool = lab.start("deploy", LOCK_MS=200, WAIT_S=120)
        wait_until(lambda: lab.ledger(0) == ["things", "pad"], AT_WORK_S, "the others to be done")
        reader = psycopg2.connect(lab.server.url(lab.names[1]))
        reader.autocommit = True
        with reader.cursor() as cursor:
            for _ in range(200):
                # A read may come to wait behind the migration, for LOCK_MS and no longer.
                cursor.execute("SET statement_timeout = '10s'; SELECT count(*) FROM things")
                reads += 1
        reader.close()
        assert tool.poll() is None and lab.ledger(1) == ["things"]
    text, _ = tool.communicate(timeout=60)
    assert tool.returncode == 0, text
    assert "shard 01 pad: canceling statement due to lock timeout" in text
    assert "trying again" in text and reads == 200
    assert lab.ledger(1) == ["things", "pad"]


def test_a_lock_that_does_not_come_is_given_up_with_the_name_of_its_holder(lab):
    lab.run("deploy")
    lab.change("pad", "ALTER TABLE things ADD COLUMN pad text", "ALTER TABLE things DROP COLUMN pad")
    with lab.transaction("LOCK TABLE things IN ACCESS SHARE MODE", shard=1) as pid:
        text = lab.run("deploy", expect=1, LOCK_MS=50, WAIT_S=1)
    assert re.search(rf"shard 01 failed: pad: no lock in \d+ tries within 1 s; the oldest transaction "
                     rf"is that of session {pid} \(\d+ s, idle in transaction: LOCK TABLE things", text)
    assert "2 of 3 shards are done and stay so; the same command completes 01." in text
    assert [lab.ledger(s) for s in range(SHARDS)] == [["things", "pad"], ["things"], ["things", "pad"]]
    assert "shard 01 ok: deployed pad" in lab.run("deploy")


def test_a_statement_that_takes_too_long_is_given_up(lab):
    slow_change(lab)
    text = lab.run("deploy", expect=1, STATEMENT_S=1)
    assert text.count("slow: took too long; nothing of it is done") == SHARDS
    assert lab.sql("SELECT to_regclass('slow')") == [(None,)]


# --- A run that dies. ---

def test_a_run_that_is_killed_in_the_middle_leaves_nothing_and_the_next_completes(lab):
    slow_change(lab)
    tool = lab.start("deploy")
    for shard in range(SHARDS):
        lab.wait_for_query("pg_sleep", shard)
    tool.kill()
    tool.wait()
    hurry(lab)
    assert lab.run("deploy").count("ok: deployed slow") == SHARDS
    assert lab.run("verify").count("ok: verified") == SHARDS


def test_a_run_that_is_killed_anywhere_is_completed_by_the_next(lab):
    for n in range(12):
        lab.change(f"step_{n}", f"CREATE TABLE step_{n} (id int);\nSELECT pg_sleep(0.02)",
                   f"DROP TABLE step_{n}", f"SELECT id FROM step_{n}")
    for wanted in (1, 2, 3, 5, 8, 11):
        tool = lab.start("deploy")
        wait_until(lambda n=wanted: max(len(lab.ledger(s)) for s in range(SHARDS)) >= n or
                   tool.poll() is not None, AT_WORK_S, f"{wanted} changes", every=0.001)
        tool.kill()
        tool.wait()
        for shard in range(SHARDS):
            def agrees(shard=shard):  # the server may be about to roll back what the dead run began
                tables = {r[0] for r in lab.sql("SELECT tablename FROM pg_tables WHERE schemaname = "
                                                "'public'", shard=shard)}
                return tables == set(lab.ledger(shard))
            wait_until(agrees, AT_WORK_S, "ledger and schema to say the same")
    lab.run("deploy")
    assert lab.run("verify").count("ok: verified") == SHARDS


def indexes(lab, shard=0):
    """{index: is it valid} of the table things."""
    return dict(lab.sql("SELECT indexrelid::regclass::text, indisvalid FROM pg_index WHERE indrelid = "
                        "'things'::regclass AND NOT indisprimary", shard=shard))


def index_change(lab):
    """A change that builds an index beside its writers."""
    lab.run("deploy")
    lab.change("things_part", "CREATE INDEX CONCURRENTLY IF NOT EXISTS things_part ON things (part)",
               "DROP INDEX CONCURRENTLY IF EXISTS things_part", "SELECT 'things_part'::regclass",
               alone=True)


def test_an_index_is_built_beside_its_writers(lab):
    index_change(lab)
    assert lab.run("deploy").count("ok: deployed things_part") == SHARDS
    assert indexes(lab) == {"things_part": True}
    lab.run("rollback")
    assert indexes(lab) == {} and lab.ledger() == ["things"]


def test_an_index_that_a_killed_run_left_half_built_is_dropped_and_built_anew(lab):
    index_change(lab)
    with lab.transaction("INSERT INTO things VALUES (1, 1)", shard=1):
        tool = lab.start("deploy")
        wait_until(lambda: indexes(lab, 1) == {"things_part": False}, AT_WORK_S, "the index's begin")
        lab.sql("INSERT INTO things VALUES (2, 2)", shard=1)  # writers go on
        tool.kill()
        tool.wait()
        wait_until(lambda: not lab.sql("SELECT 1 FROM pg_stat_activity WHERE application_name = "
                                       "'maxbooster-migrate' AND datname = current_database()",
                                       shard=1), AT_WORK_S, "the server to notice")
        assert indexes(lab, 1) == {"things_part": False}
    text = lab.run("deploy")
    assert "shard 01 index things_part was left half-built: dropped" in text
    assert indexes(lab, 1) == {"things_part": True}
    assert lab.ledger(1) == ["things", "things_part"]


def test_an_index_whose_run_died_before_the_ledger_is_taken_as_it_is(lab):
    index_change(lab)
    lab.sql("CREATE INDEX CONCURRENTLY things_part ON things (part)", shard=2)
    assert "shard 02 ok: deployed things_part" in lab.run("deploy")


def test_an_index_that_cannot_be_is_not_left_behind(lab):
    lab.run("deploy")
    lab.sql("INSERT INTO things VALUES (1, 7), (2, 7)", shard=1)
    lab.change("once", "CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS once ON things (part)",
               "DROP INDEX CONCURRENTLY IF EXISTS once", alone=True)
    text = lab.run("deploy", expect=1)
    assert "shard 01 failed: once: could not create unique index" in text
    assert indexes(lab, 1) == {} and indexes(lab, 0) == {"once": True}
    lab.sql("INSERT INTO things VALUES (3, 7)", shard=1)


# --- Two operators, and what they must not do. ---

def test_of_two_operators_at_once_each_change_is_made_once(lab):
    for n in range(5):
        lab.change(f"step_{n}", f"CREATE TABLE step_{n} (id int);\nSELECT pg_sleep(0.05)",
                   f"DROP TABLE step_{n}")
    texts = []
    threads = [threading.Thread(target=lambda: texts.append(lab.run("deploy"))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(texts) == 3  # all went well
    for shard in range(SHARDS):
        assert lab.sql("SELECT change, count(*) FROM sqitch.events GROUP BY 1 HAVING count(*) > 1",
                       shard=shard) == []
        assert len(lab.ledger(shard)) == 6


def test_an_operator_is_told_that_another_is_at_work(lab):
    slow_change(lab)
    first = lab.start("deploy")
    lab.wait_for_query("pg_sleep")
    text = lab.run("deploy", expect=1, OPERATOR_S=1)
    assert re.search(r"shard 00 failed: another migration is at work on it \(session \d+, since \d+ s\); "
                     "wait until it is done", text)
    assert "pending" in lab.run("status", expect=1)  # looking is always possible
    first.kill()
    first.wait()
    first.stdout.close()
    hurry(lab)
    lab.run("deploy")


def test_the_first_wish_to_stop_ends_after_the_change_at_work(lab):
    slow_change(lab)
    lab.change("later", "CREATE TABLE later (id int)", "DROP TABLE later")
    for shard in range(SHARDS):
        lab.sql("UPDATE pace SET seconds = 2", shard=shard)
    tool = lab.start("deploy")
    for shard in range(SHARDS):
        lab.wait_for_query("pg_sleep", shard)
    tool.send_signal(signal.SIGINT)
    text, _ = tool.communicate(timeout=60)
    assert tool.returncode == 1 and text.count("stopped before later, as you asked") == SHARDS, text
    assert lab.ledger() == ["things", "pace", "slow"]


def test_the_second_wish_to_stop_cancels_the_change_at_work(lab):
    slow_change(lab)
    tool = lab.start("deploy")
    for shard in range(SHARDS):
        lab.wait_for_query("pg_sleep", shard)
    tool.send_signal(signal.SIGINT)
    wait_until(lambda: tool.stdout.readline().startswith("stopping after"), AT_WORK_S, "an answer")
    tool.send_signal(signal.SIGINT)
    text, _ = tool.communicate(timeout=60)
    assert tool.returncode == 1 and text.count("slow: cancelled; nothing of it is done") == SHARDS, text
    assert lab.ledger() == ["things", "pace"]


def test_a_deployed_script_that_has_changed_is_refused(lab):
    lab.run("deploy")
    lab.change("pad", "ALTER TABLE things ADD COLUMN pad text", "ALTER TABLE things DROP COLUMN pad")
    lab.script("deploy", "things", "CREATE TABLE things (id bigint PRIMARY KEY, part int)")
    why = "a deployed script has changed: deploy/things.sql"
    for what in ("deploy", "verify", "rollback"):
        assert lab.run(what, expect=1).count(f"failed: {why}") == SHARDS
    assert lab.run("status", expect=1).count(why) == SHARDS
    assert lab.ledger() == ["things"]


def test_a_plan_that_was_reordered_is_refused(lab):
    lab.change("pad", "ALTER TABLE things ADD COLUMN pad text", "ALTER TABLE things DROP COLUMN pad")
    lab.run("deploy")
    plan = lab.folder / "sqitch.plan"
    plan.write_text(re.sub(r"^(things .*\n)(pad .*\n)", r"\2\1", plan.read_text(), flags=re.M))
    assert "not in the plan's order: things is deployed where the plan has pad" in lab.run(
        "deploy", expect=1)


# --- A shard that fails. ---

def test_a_shard_that_fails_holds_nobody_up_and_the_same_command_completes_it(lab):
    lab.sql("CREATE TABLE things (in_the_way int)", shard=1)
    text = lab.run("deploy", expect=1)
    assert 'shard 01 failed: things: relation "things" already exists' in text
    assert text.count("ok: deployed things") == 2 and "completes 01" in text
    lab.sql("DROP TABLE things", shard=1)
    text = lab.run("deploy")
    assert "shard 01 ok: deployed things" in text and text.count("ok: up to date") == 2


def test_a_database_that_is_away_is_told_and_the_others_are_done(lab, server):
    server.sql("ALTER DATABASE shard_02 ALLOW_CONNECTIONS false")
    text = lab.run("deploy", expect=1)
    assert "shard 02 failed: it does not answer" in text and text.count("ok: deployed") == 2
    assert "shard 02 unknown: it does not answer" in lab.run("status", expect=1)
    text = lab.run("rollback", expect=1)  # which change is the newest cannot be known
    assert text.count("nothing was reverted") == 2 and lab.ledger() == ["things"]
    server.sql("ALTER DATABASE shard_02 ALLOW_CONNECTIONS true")
    assert "shard 02 ok: deployed things" in lab.run("deploy")


def test_a_server_that_dies_during_a_change_leaves_nothing(lab, server):
    slow_change(lab)
    tool = lab.start("deploy")
    lab.wait_for_query("pg_sleep")
    server.stop()
    text, _ = tool.communicate(timeout=60)
    server.start()
    assert tool.returncode == 1 and "run this again" in text, text
    hurry(lab)
    assert lab.run("deploy").count("ok: deployed slow") == SHARDS


@pytest.mark.parametrize("limits", [{"WAIT_S": "x"}, {"LOCK_MS": 0}])
def test_a_limit_that_is_no_number_is_refused(lab, limits):
    assert "allowed is a whole number" in lab.run("status", expect=1, **limits)
