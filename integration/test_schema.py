"""The schema and the queries, on a PostgreSQL of their own."""
import pathlib
import sys
import threading

import psycopg2
import pytest

from harness import pglab
from harness.waits import wait_until

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import gen_queries  # noqa: E402  (the generator is not a package)


@pytest.fixture(scope="module", name="migrated")
def migrate(server):
    """A database with the schema."""
    server.sql("CREATE DATABASE migrated")
    pglab.sqitch(server, "migrated", "deploy", "--verify")
    return "migrated"


def test_every_change_can_be_deployed_verified_and_reverted(server):
    server.sql("CREATE DATABASE turned")
    listing = ("SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace"
               " WHERE nspname = 'public'")
    changes = [line for line in (ROOT / "sql/sqitch.plan").read_text().splitlines()
               if line and line[0] not in "%#@"]
    pglab.sqitch(server, "turned", "deploy", "--verify")
    for _ in changes[1:]:
        pglab.sqitch(server, "turned", "revert", "-y", "--to", "@HEAD^")
    pglab.sqitch(server, "turned", "revert", "-y")
    assert server.sql(listing, database="turned") == [(0,)]
    pglab.sqitch(server, "turned", "deploy", "--verify")
    pglab.sqitch(server, "turned", "verify")
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


# --- The gate of a database that is being moved. ---

GATE = "pg_advisory_{}lock(shard_gate_key())"


@pytest.fixture(name="gated")
def _gated(server, migrated):
    """Makes connections to a database whose e-mail index has the gate; SQL gives the rows."""
    made = []
    server.sql("CREATE TRIGGER gate BEFORE INSERT OR UPDATE OR DELETE ON emails"
               " FOR EACH STATEMENT EXECUTE FUNCTION shard_gate_trigger()", database=migrated)

    def connect():
        connection = psycopg2.connect(server.url(migrated))
        connection.autocommit = True
        made.append(connection)
        cursor = connection.cursor()

        def run(text):
            cursor.execute(text)
            return cursor.fetchall() if cursor.description else []
        return run
    yield connect
    for connection in made:
        connection.close()
    server.sql("DROP TRIGGER gate ON emails; DELETE FROM shard_closed", database=migrated)


def waiting(server):
    """How many wait for an advisory lock."""
    return server.sql("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'advisory'")[0][0]


TOUCH = "UPDATE emails SET active = active WHERE false"


def test_the_gate_holds_writers_while_it_is_shut_and_lets_them_go_on(server, gated):
    mover, writer = gated(), gated()
    mover(f"SELECT {GATE.format('')}")
    thread = threading.Thread(target=writer, args=(TOUCH,))
    thread.start()
    wait_until(lambda: waiting(server) == 1, 10, "the writer to wait")
    mover(f"SELECT {GATE.format('un')}")
    thread.join(10)
    assert not thread.is_alive()


def test_whoever_waited_at_the_gate_is_refused_when_the_shards_have_moved(server, gated):
    mover, writer = gated(), gated()
    mover(f"SELECT {GATE.format('')}")
    refused = []

    def write():
        with pytest.raises(psycopg2.Error) as caught:
            writer(TOUCH)
        refused.append(caught.value.pgcode)
    thread = threading.Thread(target=write)
    thread.start()
    wait_until(lambda: waiting(server) == 1, 10, "the writer to wait")
    mover("BEGIN; INSERT INTO shard_closed (epoch) VALUES (7); COMMIT")
    mover(f"SELECT {GATE.format('un')}")
    thread.join(10)
    assert refused == ["MB001"]
    assert writer("SELECT count(*) FROM emails") == [(0,)]  # reads are not fenced here


def test_the_mover_waits_for_whoever_has_passed_the_gate(server, gated):
    mover, writer = gated(), gated()
    writer("BEGIN; SELECT shard_gate()")
    thread = threading.Thread(target=mover, args=(f"SELECT {GATE.format('')}",))
    thread.start()
    wait_until(lambda: waiting(server) == 1, 10, "the mover to wait")
    writer(TOUCH)  # passing twice in one transaction waits for nobody
    writer("COMMIT")
    thread.join(10)
    assert not thread.is_alive()
