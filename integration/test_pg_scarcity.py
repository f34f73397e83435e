"""lib/pg where a server runs out of something: disk, connections, or an order of transactions."""
import contextlib
import os
import shutil
import subprocess

import psycopg2
import pytest

from harness.waits import wait_until


@pytest.fixture(name="small")
def _small(server):
    """A second shard whose tables lie on a disk of 8 MiB; its WAL does not."""
    disk = server.folder / "disk"
    disk.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(disk)],
                          capture_output=True, text=True, check=False)
    if done.returncode != 0:
        disk.rmdir()
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
    space = disk / "space"
    space.mkdir()
    if os.geteuid() == 0:
        shutil.chown(space, "postgres")
    try:
        server.sql(f"CREATE TABLESPACE small LOCATION '{space}'")
        server.sql("CREATE DATABASE small OWNER app")  # its catalogues stay on the large disk
        server.sql("CREATE TABLE driver_log (id bigint GENERATED ALWAYS AS IDENTITY) "
                   "TABLESPACE small; CREATE TABLE ballast (filler text) TABLESPACE small;"
                   "GRANT ALL ON driver_log TO app", database="small")
        yield "small"
        server.sql("DROP DATABASE small WITH (FORCE)")
        server.sql("DROP TABLESPACE small")
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)


def fill_disk(server):
    """Until not one more row fits, of the ballast and then of the table."""
    for rows, table in ((1000, "ballast"), (1, "ballast")):
        with contextlib.suppress(psycopg2.errors.DiskFull):
            while True:
                server.sql(f"INSERT INTO {table} SELECT repeat(md5(n::text), 60) "
                           f"FROM generate_series(1, {rows}) AS n", database="small")


def test_a_full_disk_refuses_the_writes_of_its_shard_and_loses_none(driver, server, small):
    d = driver(SHARD_COUNT=2, DATABASE_SHARD_01_URL=server.url(small, "app"))
    acknowledged = sum(d("append 1")["error"] == "OK" for _ in range(10))
    assert acknowledged == 10
    fill_disk(server)
    for _ in range(2000):  # what is free within the table's last page
        reply = d("append 1")
        if reply["error"] != "OK":
            break
        acknowledged += 1
    assert reply["error"] == "DEPENDENCY_UNAVAILABLE" and "53100" in reply["cause"]
    assert d("read 1")["error"] == "OK"
    assert d("append 0")["error"] == "OK"
    assert d("state 1")["breaker"] == 0  # the server is there, and reads go on
    server.sql("DROP TABLE ballast", database="small")
    acknowledged += wait_until(lambda: d("append 1")["error"] == "OK", 10, "room for a row")
    rows = server.sql("SELECT count(*) FROM driver_log", database="small")[0][0]
    assert rows == acknowledged


def test_a_transaction_that_cannot_be_put_in_order_may_be_tried_again(driver, server):
    server.sql("DELETE FROM driver; INSERT INTO driver VALUES (1), (2)", database="driver")
    server.sql("ALTER DATABASE driver SET default_transaction_isolation = 'serializable'")
    try:
        a, b = driver(), driver()
        b("begin 0")
        assert b("lock 0 2")["error"] == "OK"
        a("begin 0")
        assert a("lock 0 1")["error"] == "OK"
        assert a("commit 0")["error"] == "OK"
        reply = b("lock 0 1")  # changed since b's first look
        assert reply["error"] == "DEPENDENCY_UNAVAILABLE" and "40001" in reply["cause"]
        b("rollback 0")
        b("begin 0")
        assert b("lock 0 1")["error"] == "OK"
        assert b("commit 0")["error"] == "OK"
    finally:
        server.sql("ALTER DATABASE driver RESET ALL")


def test_a_storm_of_instances_gets_answers_and_then_it_is_over(driver, server, tmp_path):
    """Ten instances want more connections than the server has."""
    server.sql("TRUNCATE driver_log", database="driver")
    storm = [driver(INSTANCE_SHM=tmp_path / f"instance-{n}", DB_POOL_SIZE=6,
                    POOL_UTILIZATION_THRESHOLD=100) for n in range(10)]
    for d in storm:
        d.send("run append 0 12 1500 2000 0")
    outcomes = [d.receive() for d in storm]
    done = sum(r["outcomes"]["OK"] for r in outcomes)
    unknown = sum(r["outcomes"].get("WRITE_UNKNOWN", 0) for r in outcomes)
    assert all(set(r["outcomes"]) <= {"OK", "POOL_SATURATED", "DEPENDENCY_UNAVAILABLE", "TIMED_OUT",
                                      "WRITE_UNKNOWN"} for r in outcomes), outcomes
    rows = server.sql("SELECT count(*) FROM driver_log", database="driver")[0][0]
    assert 100 < done <= rows <= done + unknown
    for d in storm[1:]:
        d.close()
    wait_until(lambda: storm[0]("read 0")["error"] == "OK", 5, "a free connection")
