"""Replicas: reads that are fresh enough go there, everybody reads his own writes, and a promoted one is found.

MB_PAIRS=400000 runs the property test at its full length."""
import contextlib
import os
import time

import pytest

from harness import pglab
from harness.waits import wait_until

PAIRS = int(os.environ.get("MB_PAIRS", "6000"))


@pytest.fixture(scope="module", name="primary")
def _primary():
    with pglab.driver_server() as server:
        yield server


@pytest.fixture(scope="module", name="replicas")
def _replicas(primary):
    with contextlib.ExitStack() as stack:
        made = [pglab.Replica(primary) for _ in range(2)]
        for replica in made:
            stack.callback(replica.close)
        yield made


@pytest.fixture(name="shm")
def _shm():
    with pglab.shared_memory() as path:
        yield path


def addresses(*replicas):
    return {f"DATABASE_REPLICA_{n}_URL": r.url("driver", "app") for n, r in enumerate(replicas, 1)}


@pytest.fixture(name="driver")
def _driver(primary, replicas, shm):
    with pglab.drivers(primary, shm) as make:
        yield lambda **more: make(**{**addresses(*replicas), "DB_BREAKER_OPEN_MS": 200, **more})


def read(d):
    """One read that may go to a replica: did it?"""
    d("scope 5000")
    d("replicas 1")
    reply = d("read 0")
    assert reply["error"] == "OK", reply
    return reply["replica_count"] == 1


def reads_on(server):
    """Reads that the server has answered so far."""
    return server.sql("SELECT xact_commit FROM pg_stat_database WHERE datname = 'driver'")[0][0]


def test_reads_go_to_replicas_in_turn_and_writes_to_the_primary(driver, replicas):
    d = driver()
    wait_until(lambda: read(d), 10, "a read on a replica")
    before = [reads_on(r) for r in replicas]
    assert sum(read(d) for _ in range(40)) >= 30  # but for moments of a busy machine
    wait_until(lambda: all(reads_on(r) - b >= 10 for r, b in zip(replicas, before)), 10,
               "reads on both")
    d("scope 5000")
    d("replicas 1")
    assert d("append 0")["replica_count"] == 0
    assert d("read 0")["replica_count"] == 0  # the primary's connection is there already


def test_reads_in_transactions_and_without_leave_go_to_the_primary(driver):
    d = driver()
    wait_until(lambda: read(d), 10, "a read on a replica")
    d("scope 5000")
    assert d("read 0")["replica_count"] == 0
    d("scope 5000")
    d("replicas 1")
    d("begin 0")
    assert d("read 0")["replica_count"] == 0
    assert d("append 0")["error"] == "OK"
    assert d("commit 0")["error"] == "OK"


def test_replicas_that_lag_are_left_alone(driver, replicas, primary):
    d = driver()
    wait_until(lambda: read(d), 10, "a read on a replica")
    for replica in replicas:
        replica.pause()
    try:
        primary.sql("INSERT INTO driver_log DEFAULT VALUES", database="driver")
        wait_until(lambda: not read(d), 10, "the replicas to be behind")
        assert not any(read(d) for _ in range(20))
    finally:
        for replica in replicas:
            replica.resume()
    wait_until(lambda: read(d), 10, "the replicas to catch up")


def test_a_replica_that_is_down_or_silent_costs_nobody_an_answer(driver, replicas):
    d = driver()
    wait_until(lambda: read(d), 10, "a read on a replica")
    with replicas[0].standing_still():
        for _ in range(30):
            read(d)
    replicas[0].stop()
    try:
        for _ in range(30):
            read(d)
    finally:
        replicas[0].start()
    wait_until(lambda: read(d), 10, "a read on a replica")


def test_replicas_that_stand_still_and_count_as_fresh_leave_time_for_the_primary(driver, replicas):
    d = driver(DB_MAX_REPLICA_LAG_MS=60000, DB_BREAKER_FAILURES=1000)
    wait_until(lambda: read(d), 10, "a read on a replica")
    with replicas[0].standing_still(), replicas[1].standing_still():
        for _ in range(6):  # on connections that are there, and on new ones
            read(d)
    wait_until(lambda: read(d), 10, "a read on a replica")


def test_a_reader_who_has_written_is_never_told_older_rows(primary, replicas, shm):
    """Several instances, one replica paused now and then, the other killed: 0 stale reads."""
    del shm
    with contextlib.ExitStack() as stack:
        drivers = []
        for n in range(3):
            path = stack.enter_context(pglab.shared_memory(f"-{n}"))
            make = stack.enter_context(pglab.drivers(primary, path))
            drivers.append(make(**addresses(*replicas), DB_BREAKER_OPEN_MS=100))
        for d in drivers:
            wait_until(lambda d=d: read(d), 10, "a read on a replica")
            d.send(f"mix 0 3 {max(8000, PAIRS // 5)} {PAIRS // 3} 600 30")
        for turn in range(4):
            replicas[turn % 2].pause()
            time.sleep(0.3)  # the load runs meanwhile
            replicas[turn % 2].resume()
        replicas[1].stop()
        time.sleep(0.3)  # the load runs meanwhile
        replicas[1].start()
        results = [d.receive() for d in drivers]
    print(results)
    assert sum(r["stale"] for r in results) == 0, results
    assert sum(r["failed"] for r in results) == 0, results
    assert sum(r["writes"] for r in results) >= PAIRS // 10, results
    assert sum(r["replica"] for r in results) > 0, results


def test_a_promoted_replica_is_found_and_the_old_primary_refused(shm):
    with contextlib.ExitStack() as stack:
        old = stack.enter_context(pglab.driver_server())
        new = pglab.Replica(old)
        stack.callback(new.close)
        make = stack.enter_context(pglab.drivers(old, shm))
        d = make(**addresses(new), DB_BREAKER_OPEN_MS=100)
        wait_until(lambda: read(d), 10, "a read on the replica")
        d("scope 5000")
        assert d("append 0")["error"] == "OK"
        count = "SELECT count(*) FROM driver_log"
        wait_until(lambda: new.sql(count, database="driver") == [(1,)], 10, "replication")
        old.stop()
        new.promote()

        def writes():
            d("scope 3000")
            return d("append 0")["error"] == "OK"
        wait_until(writes, 10, "the new primary to be found")
        n = new.sql(count, database="driver")[0][0]
        assert n >= 2
        old.start()  # it comes back as a primary, of an older timeline
        for _ in range(10):
            assert writes()
        assert new.sql(count, database="driver")[0][0] == n + 10
        assert old.sql(count, database="driver")[0][0] == 1
        late = make(**addresses(new))  # as does who starts only now
        assert late("append 0")["error"] == "OK"
        assert old.sql(count, database="driver")[0][0] == 1
