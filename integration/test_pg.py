"""lib/pg over a PostgreSQL of its own: queries, transactions, and the pool over processes."""
import time

from harness.waits import wait_until


# --- The ordinary. ---

def test_reads_writes_and_transactions(driver):
    d = driver()
    before_connects = d("state 0")["connects"]  # at its start it has asked for the map
    assert d("read 0")["error"] == "OK"
    before = d("write 0")["db_count"]
    assert d("begin 0")["db_count"] == before  # BEGIN travels with the first statement
    assert d("write 0")["db_count"] == before + 1
    assert d("commit 0")["error"] == "OK"
    assert d("conflict 0")["error"] == "CONFLICT"
    assert d("read 0")["error"] == "OK"
    assert d("state 0")["connects"] == before_connects + 1


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
    d("run read 0 4 300 2000 20")
    assert d("state 0")["open"] >= 3
    # One may be there at any time: whoever has nothing else to do follows the map.
    wait_until(lambda: d("state 0")["open"] <= 1, 5, "the idle connections to be closed")


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
    wait_until(lambda: a("state 0")["waits"] == 1, 5, "the other to wait")
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
