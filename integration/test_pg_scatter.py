"""One question to all shards at once (lib/pg_scatter), over PostgreSQL servers of its own."""
import contextlib
import uuid

import pytest

from harness import pglab
from harness.waits import wait_until

SHARDS = 4
TABLE = """CREATE TABLE users (id uuid PRIMARY KEY, name text, role text DEFAULT 'artist',
                               created_at timestamptz DEFAULT now());
           GRANT ALL ON users TO app"""


def name_of(shard):
    return f"shard_{shard}"


@pytest.fixture(scope="module", name="servers")
def _servers():
    """Shards 0 to 2 on the first server, the last alone on the second."""
    with pglab.driver_server() as first, pglab.driver_server() as second:
        servers = [first, first, first, second]
        for shard, server in enumerate(servers):
            server.sql(f"CREATE DATABASE {name_of(shard)}")
            server.sql(TABLE, database=name_of(shard))
        yield servers


@pytest.fixture(name="ids")
def _ids(servers):
    """Twenty-four rows over the shards, in order."""
    ids = sorted(f"{u[:14]}7{u[15:]}" for u in (str(uuid.uuid4()) for _ in range(24)))
    for n, user in enumerate(ids):
        shard = (n * 7 + n // 5) % SHARDS
        servers[shard].sql("INSERT INTO users (id, name) VALUES (%s, 'x')", user,
                           database=name_of(shard))
    yield ids
    for shard, server in enumerate(servers):
        server.sql("DELETE FROM users", database=name_of(shard))


@pytest.fixture(name="driver")
def _driver(servers):
    addresses = {f"DATABASE_SHARD_{n:02d}_URL": s.url(name_of(n), "app")
                 for n, s in enumerate(servers)}
    with pglab.shared_memory() as shm, pglab.drivers(servers[0], shm) as make:
        yield lambda **more: make(SHARD_COUNT=SHARDS, **{**addresses, **more})


def of_shards(servers, shards):
    """What these shards hold, in order."""
    return sorted(row[0] for shard in shards
                  for row in servers[shard].sql("SELECT id::text FROM users",
                                                database=name_of(shard)))


def test_a_page_holds_the_first_rows_of_all_shards_in_order(driver, ids):
    d = driver()
    for size in (1, 5, 23, 24, 25):
        d("scope 10000")
        page = d(f"page {size}")
        assert (page["error"], page["shards"], page["failed"]) == ("OK", SHARDS, 0)
        assert page["ids"] == ids[:size]


def test_no_rows_are_an_empty_page(driver):
    page = driver()("page 10")
    assert (page["error"], page["failed"], page["ids"]) == ("OK", 0, [])


def test_connections_are_kept_and_leases_come_back(driver, ids):
    d = driver()

    def connects():
        return sum(d(f"state {shard}")["connects"] for shard in range(SHARDS))
    assert d("page 50")["ids"] == ids
    before = connects()
    for _ in range(5):
        d("scope 10000")
        assert d("page 50")["ids"] == ids
    assert d("state 0")["leases"] == 1
    d("scope 10000")
    assert [d(f"state {shard}")["leases"] for shard in range(SHARDS)] == [0] * SHARDS
    assert connects() <= before + 1  # while all are in use the map is asked for on another one


def test_a_shard_that_is_away_costs_its_rows_only(driver, servers, ids):
    d = driver(DB_BREAKER_FAILURES=100)
    servers[3].stop()
    try:
        d("scope 10000")
        page = d("page 50")
        assert (page["error"], page["failed"]) == ("OK", 1)
        assert page["ids"] == of_shards(servers, [0, 1, 2])
    finally:
        servers[3].start()
    d("scope 10000")
    assert d("page 50")["ids"] == ids


def test_a_server_that_stands_still_is_waited_for_so_long_and_no_longer(driver, servers, ids):
    d = driver(DB_SCATTER_TIMEOUT_MS=300)
    assert d("page 50")["ids"] == ids
    d("scope 10000")
    with servers[3].standing_still():
        page = d("page 50")
        assert (page["error"], page["failed"]) == ("OK", 1)
        assert page["ids"] == of_shards(servers, [0, 1, 2])
        assert page["ms"] >= 299  # of two clocks that count whole milliseconds
        d("scope 10000")
        page = d("page 50")  # and to connect anew, no longer either
        assert page["failed"] == 1
    d("scope 10000")
    assert d("page 50")["ids"] == ids


def test_an_open_breaker_costs_no_time(driver, servers, ids):
    d = driver(DB_BREAKER_FAILURES=1, DB_BREAKER_OPEN_MS=600000)
    servers[3].stop()
    try:
        assert d("page 50")["failed"] == 1
        before = d("state 3")
        d("scope 10000")
        assert d("page 50")["failed"] == 1
        after = d("state 3")
        assert after["broken_off"] == before["broken_off"] + 1
        assert after["connect_failures"] == before["connect_failures"]
    finally:
        servers[3].start()
    assert ids


def test_connections_that_were_lost_meanwhile_are_made_anew(driver, servers, ids):
    d = driver()
    assert d("page 50")["ids"] == ids
    d("scope 10000")
    for server in {servers[0], servers[3]}:
        server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'")
    page = d("page 50")
    assert (page["failed"], page["ids"]) == (0, ids)


def test_a_stale_plan_is_asked_again(driver, servers, ids):
    d = driver()
    assert d("page 50")["ids"] == ids
    d("scope 10000")
    servers[1].sql("ALTER TABLE users ALTER COLUMN name TYPE varchar(50)", database=name_of(1))
    try:
        assert d("page 50")["ids"] == ids
    finally:
        servers[1].sql("ALTER TABLE users ALTER COLUMN name TYPE text", database=name_of(1))


def test_a_saturated_pool_is_told_and_the_others_answer(driver, servers, ids):
    holder, d = driver(DB_POOL_SIZE=1), driver(DB_POOL_SIZE=1)
    assert holder("read 2")["error"] == "OK"
    page = d("page 50")
    assert (page["error"], page["failed"]) == ("OK", 1)
    assert page["ids"] == of_shards(servers, [0, 1, 3])
    assert d("state 2")["saturated"] == 1
    holder("release")
    d("scope 10000")
    assert d("page 50")["ids"] == ids


def test_where_nobody_answers_it_is_an_error(driver, servers, ids):
    d = driver()
    with contextlib.ExitStack() as stack:
        for server in {servers[0], servers[3]}:
            server.stop()
            stack.callback(server.start)
        page = d("page 50")
    assert (page["error"], page["failed"]) == ("DEPENDENCY_UNAVAILABLE", SHARDS)
    d("scope 10000")
    wait_until(lambda: d("scope 10000") and d("page 50")["ids"] == ids, 10, "all shards")
