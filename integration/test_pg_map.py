"""The map of shards, followed live: by polling, at the gate, and by processes with an old environment."""
import json
import time

import psycopg2
import pytest

from harness import pglab
from harness.waits import wait_until

COUNT = "SELECT count(*) FROM driver_log"


class Shards:
    """Databases of one server, and what a mover does to them."""

    def __init__(self, server):
        self.server = server
        self.made = 0

    def new(self):
        """Another database with the tables of drivers."""
        self.made += 1
        name = f"driver_{self.made}"
        pglab.driver_database(self.server, name)
        return name

    def location(self, name):
        return f"host=127.0.0.1 port={self.server.port} dbname={name}"

    def map(self, *names, shards=None, flags=()):
        databases = [{"location": self.location(n), "flags": list(flags)} for n in names]
        shards = list(range(len(names))) if shards is None else shards
        return json.dumps({"shardCount": len(shards), "databases": databases, "shards": shards})

    def write(self, name, epoch, text):
        self.server.sql("INSERT INTO shard_map (epoch, map) VALUES (%s, %s)", epoch, text,
                        database=name)

    def fence(self, name):
        """What a mover puts on the tables while it moves them."""
        self.server.sql("CREATE TRIGGER gate BEFORE INSERT OR UPDATE OR DELETE ON driver_log"
                        " FOR EACH STATEMENT EXECUTE FUNCTION shard_gate_trigger()", database=name)

    def cut_over(self, name, epoch, text, held=lambda: None):
        """Shut the gate, call held, write map and closing in one transaction, open it."""
        connection = psycopg2.connect(self.server.url(name))
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_lock(shard_gate_key())")
                held()
                cursor.execute("BEGIN")
                cursor.execute("INSERT INTO shard_map (epoch, map) VALUES (%s, %s)", (epoch, text))
                cursor.execute("INSERT INTO shard_closed (epoch) VALUES (%s)", (epoch,))
                cursor.execute("COMMIT")
        finally:
            connection.close()  # which opens the gate

    def count(self, name):
        return self.server.sql(COUNT, database=name)[0][0]


@pytest.fixture(scope="module", name="shards")
def _shards(server):
    return Shards(server)


def waiters(server):
    return server.sql("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'advisory'")[0][0]


def at(server, *names):
    """Variables of a driver whose shard n is in the nth database."""
    urls = {f"DATABASE_SHARD_{i:02d}_URL": server.url(n, "app") for i, n in enumerate(names)}
    return {"SHARD_COUNT": len(names), **urls}


# --- Of the configuration. ---

def test_shards_of_one_database_share_its_pool(driver, server, shards):
    other = shards.new()
    d = driver(SHARD_COUNT=4, SHARD_MAP="1,1,1,1", DB_POOL_SIZE=1,
               DATABASE_SHARD_01_URL=server.url(other, "app"))
    assert d("append 0")["error"] == "OK"
    assert d("append 3")["error"] == "OK"  # the same connection, though the pool has only one
    state = d("state 2")
    assert (state["leases"], state["databases"], state["shards"]) == (1, 1, 4)
    assert shards.count(other) == 2


# --- Following. ---

def test_a_stored_map_is_followed_without_a_word(driver, server, shards):
    old, new = shards.new(), shards.new()
    d = driver(**at(server, old))
    assert d("state 0")["epoch"] == 0
    assert d("append 0")["error"] == "OK"
    d("release")
    shards.write(old, 3, shards.map(old, new))
    wait_until(lambda: d("state 0")["epoch"] == 3, 10, "the map to be followed")
    assert d("append 1")["error"] == "OK"
    assert shards.count(new) == 1
    assert d("state 1")["shards"] == 2


def test_an_old_environment_still_finds_the_right_places(driver, server, shards):
    old, new = shards.new(), shards.new()
    shards.write(old, 5, shards.map(new))
    d = driver(**at(server, old))
    assert d("state 0")["epoch"] == 5
    assert d("append 0")["error"] == "OK"
    assert (shards.count(old), shards.count(new)) == (0, 1)


def test_a_start_does_not_wait_long_for_databases_that_do_not_answer(driver, server, shards):
    old, new = shards.new(), shards.new()
    shards.write(old, 2, shards.map(new))
    dead = f"postgresql://app@127.0.0.1:{pglab.free_port()}/x"
    begin = time.monotonic()
    d = driver(SHARD_COUNT=2, DATABASE_SHARD_00_URL=dead,
               DATABASE_SHARD_01_URL=server.url(old, "app"))
    assert d("state 0")["epoch"] == 2
    assert time.monotonic() - begin < 10


def test_maps_that_make_no_sense_are_left_alone(driver, server, shards):
    name = shards.new()
    shards.write(name, 9, '{"shardCount": 3}')
    d = driver(**at(server, name))
    assert d("state 0")["epoch"] == 0
    assert d("append 0")["error"] == "OK"
    shards.write(name, 10, shards.map(name, name, flags=["moving"]))
    wait_until(lambda: d("state 0")["epoch"] == 10, 10, "the next map to be followed")
    assert d("state 0")["databases"] == 1


def test_a_transaction_stays_where_it_began(driver, server, shards):
    old, new = shards.new(), shards.new()
    d = driver(**at(server, old))
    d("begin 0")
    assert d("append 0")["error"] == "OK"
    shards.write(old, 4, shards.map(new))
    wait_until(lambda: d("state 0")["epoch"] == 4, 10, "the map to be followed")
    assert d("append 0")["error"] == "OK"
    assert d("commit 0")["error"] == "OK"
    assert (shards.count(old), shards.count(new)) == (2, 0)
    assert d("append 0")["error"] == "OK"  # a lease outside of transactions follows at once
    assert (shards.count(old), shards.count(new)) == (2, 1)


# --- At the gate. ---

def test_a_write_goes_after_its_shard(driver, server, shards):
    old, new = shards.new(), shards.new()
    d = driver(**at(server, old))
    assert d("append 0")["error"] == "OK"
    shards.fence(old)
    shards.cut_over(old, 1, shards.map(new, flags=["fresh"]))
    assert d("append 0")["error"] == "OK"
    assert (shards.count(old), shards.count(new)) == (1, 1)
    assert d("state 0")["epoch"] == 1


def test_a_transaction_goes_after_its_shard_at_its_first_statement(driver, server, shards):
    old, new = shards.new(), shards.new()
    d = driver(**at(server, old))
    shards.fence(old)
    shards.cut_over(old, 1, shards.map(new))
    d("begin 0")
    assert d("append 0")["error"] == "OK"
    assert d("append 0")["error"] == "OK"
    assert d("commit 0")["error"] == "OK"
    assert (shards.count(old), shards.count(new)) == (0, 2)


def test_while_a_shard_moves_transactions_meet_the_gate_at_their_beginning(driver, server, shards):
    old, new = shards.new(), shards.new()
    d = driver(**at(server, old))
    shards.fence(old)
    shards.write(old, 1, shards.map(old, flags=["moving"]))
    wait_until(lambda: d("state 0")["epoch"] == 1, 10, "the announcement to be followed")

    def held():
        d("begin 0")
        d.send("read 0")  # would not meet a trigger
        wait_until(lambda: waiters(server) == 1, 10, "the transaction to wait")
    shards.cut_over(old, 2, shards.map(new), held)
    assert d.receive()["error"] == "OK"
    assert d("append 0")["error"] == "OK"
    assert d("commit 0")["error"] == "OK"
    assert (shards.count(old), shards.count(new)) == (0, 1)


def test_a_transaction_that_is_refused_in_the_middle_has_done_nothing(driver, server, shards):
    old, new = shards.new(), shards.new()
    d = driver(**at(server, old))
    shards.fence(old)
    d("begin 0")
    assert d("read 0")["error"] == "OK"
    shards.cut_over(old, 1, shards.map(new))
    assert d("append 0")["error"] == "DEPENDENCY_UNAVAILABLE"
    d("rollback 0")
    wait_until(lambda: d("state 0")["epoch"] == 1, 0.9, "the map, sooner than by polling")
    assert d("append 0")["error"] == "OK"
    assert (shards.count(old), shards.count(new)) == (0, 1)


def test_a_gate_without_a_way_on_is_an_error_that_may_be_tried_again(driver, server, shards):
    old = shards.new()
    d = driver(**at(server, old))
    shards.fence(old)
    server.sql("INSERT INTO shard_closed (epoch) VALUES (1)", database=old)
    reply = d("append 0")
    assert reply["error"] == "DEPENDENCY_UNAVAILABLE" and "moved" in reply["cause"]


def test_a_wait_at_the_gate_ends_with_the_scope(driver, server, shards):
    old = shards.new()
    d = driver(**at(server, old))
    shards.fence(old)

    def held():
        d("scope 300")
        reply = d("append 0")
        assert reply["error"] == "WRITE_UNKNOWN" and reply["ms"] < 2000
    shards.cut_over(old, 1, shards.map(old), held)


def test_moves_under_load_lose_nothing_and_double_nothing(driver, server, shards):
    names = [shards.new() for _ in range(5)]
    drivers = [driver(**at(server, names[0]), DB_BREAKER_OPEN_MS=100) for _ in range(3)]
    for i, d in enumerate(drivers):
        d.send(f"run {'append' if i < 2 else 'twice'} 0 3 9000 5000 0")
    clients = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'"
    frozen = []
    for epoch, (old, new) in enumerate(zip(names, names[1:]), 1):
        wait_until(lambda name=old: shards.count(name) > 50, 20, "some load")
        wait_until(lambda: server.sql(clients)[0][0] <= 12, 10, "unused connections to be closed")
        shards.fence(old)
        shards.cut_over(old, 2 * epoch, shards.map(new, flags=["moving"]))
        frozen.append((old, shards.count(old)))
    outcomes = [d.receive()["outcomes"] for d in drivers]
    rows = sum(shards.count(name) for name in names)
    done = sum(o["OK"] for o in outcomes[:2]) + 2 * outcomes[2]["OK"]
    assert done == rows
    assert [(name, shards.count(name)) for name in names[:-1]] == frozen
    assert all(set(o) <= {"OK", "DEPENDENCY_UNAVAILABLE"} for o in outcomes), outcomes
    # Only a transaction that was under way when nobody had announced the move may be refused.
    assert all(set(o) == {"OK"} for o in outcomes[:2]), outcomes
