"""lib/pg over a PostgreSQL of its own that breaks, stands still, or has no room."""
import contextlib
import time

import psycopg2

from harness import pglab
from harness.slowlink import SlowLink
from harness.waits import wait_until


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


def test_a_server_that_hangs_is_asked_by_one_probe_as_long_as_that_waits(driver, server):
    """Two processes, a probe that waits ten times as long as the breaker is open."""
    with contextlib.closing(SlowLink(server.port)) as link:
        settings = {"DATABASE_URL": f"postgresql://app@127.0.0.1:{link.port}/driver", "DB_BREAKER_OPEN_MS": 100,
                    "DB_CONNECTION_TIMEOUT": 1000, "DB_STATEMENT_TIMEOUT_MS": 300}
        both = [driver(**settings), driver(**settings)]
        for d in both:
            assert d("read 0")["error"] == "OK"
            d("release")
        link.is_silent = True
        for d in both:
            d.send("run read 0 4 8000 3000 0")
        wait_until(lambda: link.n_accepted >= 8 and link.n_open <= 1, 6, "the breaker to open")
        link.mark()
        probes = link.n_accepted + 3
        wait_until(lambda: link.n_accepted >= probes, 6, "three probes", every=0.01)
        assert link.most_open <= 1
        for d in both:
            assert d.receive()["outcomes"]["OK"] == 0
        link.is_silent = False
        link.cut()
        wait_until(lambda: all(d("read 0")["error"] == "OK" for d in both), 3, "the server to answer again")


def test_a_probe_that_finds_no_lease_is_followed_by_another(driver, server):
    """The holder of the only lease has lost the server, and keeps the lease while the probe comes for it."""
    with contextlib.closing(SlowLink(server.port)) as link:
        settings = {"DATABASE_URL": f"postgresql://app@127.0.0.1:{link.port}/driver", "DB_BREAKER_OPEN_MS": 100,
                    "DB_BREAKER_FAILURES": 1, "DB_POOL_SIZE": 1}
        holder, prober = driver(**settings), driver(**settings)
        holder("begin 0")
        assert holder("append 0")["error"] == "OK"
        link.down()
        assert holder("append 0")["error"] == "DEPENDENCY_UNAVAILABLE"
        assert prober("state 0")["breaker"] == 1
        link.up()
        wait_until(lambda: prober("read 0")["error"] == "POOL_SATURATED", 3, "a probe without a lease")
        holder("release")
        wait_until(lambda: prober("read 0")["error"] == "OK", 3, "another probe")
        assert prober("state 0")["breaker"] == 0


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
    dead = f"postgresql://app@127.0.0.1:{pglab.free_port()}/driver"
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
