"""maxboosterctl shards …, over private servers: moves and splits under writes, killed at every step,
refused where they are unsafe. What the writers were told is done must be there, once, in its
place."""
import contextlib
import random
import signal

import psycopg2
import pytest

from harness import pglab, reshardlab
from harness.waits import wait_until

FORWARD = ["step target", "step subscribe", "step copy", "step announce", "step compare",
           "step cut", "step reverse"]
BACK = ["step announce", "step compare", "step cut", "step release"]


@contextlib.contextmanager
def fleet_of(shards, servers=1):
    """A fleet, closed at the end."""
    fleet = reshardlab.Fleet(shards, servers)
    try:
        yield fleet
    finally:
        fleet.close()


@contextlib.contextmanager
def writes(fleet, least=300, **options):
    """Writers at work, who have done something before the block begins."""
    load = reshardlab.Load(fleet, **options)
    try:
        wait_until(lambda: load.done >= least, 60, "the first writes")
        yield load
    finally:
        load.end()


@pytest.fixture(scope="module", name="fleet")
def make_fleet():
    """One shard; each test moves it on and cleans up."""
    with fleet_of(1) as fleet:
        yield fleet


@pytest.fixture(name="load")
def make_load(fleet):
    with writes(fleet) as load:
        yield load


@pytest.fixture(name="place")
def fresh_place(fleet, request):
    """A place for one more database."""
    return fleet.location("mb_" + request.node.originalname.removeprefix("test_")[:40]
                          + f"_{random.randrange(10 ** 6)}")


def has_database(fleet, location):
    name = psycopg2.extensions.parse_dsn(location)["dbname"]
    return bool(fleet.servers[0].sql("SELECT FROM pg_database WHERE datname = %s", name))


# --- The whole. ---

def test_shards_move_to_another_server_and_back_and_again_under_writes():
    with fleet_of(2, servers=2) as fleet, writes(fleet) as load:
        before = fleet.databases()
        new = fleet.location("mb_new", 1)
        text = fleet.ctl("shards", "move", "1", "--to", new)
        assert "cut over" in text and fleet.databases() == (2, [before[1][0], new])
        load.go_on()
        fleet.ctl("shards", "way-back")
        assert fleet.databases() == before
        load.go_on()
        fleet.ctl("shards", "clean-up")
        assert fleet.leftovers() == []
        fleet.ctl("shards", "move", "1", "--to", new)
        load.go_on()
        assert "still names" in fleet.ctl("shards", "clean-up", "--drop", expect=1)
        fleet.ctl("shards", "clean-up", "--drop",
                  DATABASE_SHARD_01_URL=f"postgresql://app:x@127.0.0.1:{fleet.servers[1].port}/mb_new")
        load.go_on()
        load.stop()
        assert fleet.databases() == (2, [before[1][0], new]) and fleet.leftovers() == []
        assert not has_database(fleet, before[1][1])


def test_a_split_gives_each_of_twice_the_shards_a_database_of_its_own_under_writes():
    with fleet_of(1) as fleet, writes(fleet) as load:
        old = fleet.location("mb_00")
        fleet.ctl("shards", "split")
        assert fleet.databases() == (2, [fleet.location(f"mb_2_{n:02d}") for n in range(2)])
        load.go_on()
        fleet.check_closed([old])
        fleet.ctl("shards", "way-back")
        assert fleet.databases() == (2, [old, old])
        load.go_on()
        fleet.ctl("shards", "clean-up")
        assert fleet.leftovers() == []
        # Both are in one database: a split takes them apart before it doubles once more, and a
        # move takes both.
        assert "shard 1 of 2" in fleet.ctl("shards", "split", "--dry-run")
        one, rest = fleet.location("mb_one"), fleet.location("mb_rest")
        assert "--rest-to" in fleet.ctl("shards", "move", "1", "--to", one, expect=1)
        fleet.ctl("shards", "move", "1", "--to", one, "--rest-to", rest)
        assert fleet.databases() == (2, [rest, one])
        load.go_on()
        fleet.ctl("shards", "clean-up")
        load.go_on()
        load.stop()
        assert not [f for f in fleet.leftovers() if f[0] != "gate"]  # the old one stays closed


# --- The mover dies. ---

def test_a_move_killed_at_every_step_goes_on_to_its_end(fleet, load, place):
    for step in FORWARD:
        assert step in fleet.ctl_killed_at(step, "shards", "move", "0", "--to", place)
        load.go_on()
    fleet.ctl("shards", "move", "0", "--to", place)
    assert fleet.databases() == (1, [place])
    load.go_on()
    fleet.ctl("shards", "clean-up")
    load.stop()


def test_a_way_back_killed_at_every_step_goes_on_to_its_end(fleet, load, place):
    before = fleet.databases()
    fleet.ctl("shards", "move", "0", "--to", place)
    for step in BACK:
        assert step in fleet.ctl_killed_at(step, "shards", "way-back")
        load.go_on()
    fleet.ctl("shards", "way-back")
    assert fleet.databases() == before
    load.go_on()
    fleet.ctl("shards", "clean-up")
    load.stop()
    assert not has_database(fleet, place)


def test_a_move_killed_at_random_times_goes_on_to_its_end(fleet, load, place):
    for _ in range(8):
        process = fleet.start("shards", "move", "0", "--to", place)
        with contextlib.suppress(Exception):
            process.wait(random.uniform(0.05, 4))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        load.go_on(10)
    fleet.ctl("shards", "move", "0", "--to", place)
    load.go_on()
    fleet.ctl("shards", "clean-up")
    load.stop()


@pytest.mark.parametrize("step", ["step subscribe", "step copy", "step cut"])
def test_a_killed_move_is_aborted_without_a_trace(fleet, load, place, step):
    before = fleet.databases()
    gates = sorted(fleet.leftovers())
    fleet.ctl_killed_at(step, "shards", "move", "0", "--to", place)
    fleet.ctl("shards", "abort")
    load.go_on()
    assert fleet.databases() == before and not has_database(fleet, place)
    assert sorted(fleet.leftovers()) == gates
    load.stop()
    assert "no move is open" in fleet.ctl("shards", "status")


def test_an_aborted_way_back_leaves_the_move_as_it_was(fleet, load, place):
    fleet.ctl("shards", "move", "0", "--to", place)
    fleet.ctl_killed_at("step compare", "shards", "way-back")
    fleet.ctl("shards", "abort")
    assert fleet.databases() == (1, [place])
    load.go_on()
    fleet.ctl("shards", "clean-up")
    load.stop()


def test_a_move_goes_on_behind_a_crash_of_the_servers():
    with fleet_of(1, servers=2) as fleet:
        for _ in range(20):
            fleet.add_user()
        place = fleet.location("mb_new", 1)
        for step in ("step copy", "step compare", "step cut"):
            fleet.ctl_killed_at(step, "shards", "move", "0", "--to", place)
            for server in fleet.servers:
                server.stop()
                server.start()
            fleet.add_user()
        fleet.ctl("shards", "move", "0", "--to", place)
        fleet.add_user()
        for server in fleet.servers:
            server.stop()
            server.start()
        fleet.check()
        assert fleet.databases() == (1, [place])
        fleet.ctl("shards", "way-back")
        fleet.check()


# --- Rows that differ. ---

def test_a_row_that_differs_forbids_the_cut_over(fleet, load, place):
    before = fleet.databases()
    victim = fleet.add_user()
    fleet.ctl_killed_at("step announce", "shards", "move", "0", "--to", place)
    stranger = "00000000-0000-7000-8000-000000000000"
    harms = [("UPDATE users SET name = 'tampered' WHERE id = %s", victim),
             ("UPDATE users SET name = 'v0' WHERE id = %s", None),
             ("INSERT INTO users (id, email, name, password_hash) VALUES (%s, 'a@b.c', 'x', 'h')",
              stranger),
             ("DELETE FROM users WHERE id = %s", None),
             ("DELETE FROM users WHERE id = %s", victim)]
    key = None
    for sql, found in harms:
        key = found or key
        with contextlib.closing(reshardlab.connect(place)) as connection:
            with connection, connection.cursor() as cursor:
                cursor.execute(sql, (key,))
                assert cursor.rowcount == 1
        if found:
            text = fleet.ctl("shards", "move", "0", "--to", place, expect=1)
            assert f"differ for good: users ({found})" in text
            assert fleet.databases() == before
            load.go_on()
    fleet.ctl("shards", "abort")
    load.stop()


# --- The gate. ---

def test_a_long_transaction_delays_the_cut_over_but_not_the_writers(fleet, load, place):
    source = fleet.databases()[1][0]
    fleet.ctl_killed_at("step compare", "shards", "move", "0", "--to", place)
    with contextlib.closing(reshardlab.connect(source)) as connection:
        with connection.cursor() as cursor:  # behind the gate, and in no hurry
            cursor.execute("SELECT shard_gate()")
        process = fleet.start("shards", "move", "0", "--to", place)
        assert "gate opened" in fleet.read_to("not yet", process)
        load.go_on()
        connection.rollback()
    process.communicate()
    assert process.returncode == 0
    fleet.ctl("shards", "clean-up")
    load.stop()


def test_a_program_that_has_heard_nothing_cannot_write_to_the_old_place(fleet, place):
    source = fleet.databases()[1][0]
    fleet.ctl("shards", "move", "0", "--to", place)
    for _ in range(2):  # while there is a way back, and after
        with contextlib.closing(reshardlab.connect(source)) as connection:
            with connection.cursor() as cursor, pytest.raises(psycopg2.Error) as refused:
                cursor.execute("DELETE FROM users")
            assert refused.value.pgcode == reshardlab.MOVED
        if fleet.ctl("shards", "status").count("is moved"):
            fleet.ctl("shards", "clean-up")


# --- Unsafe beginnings. ---

def test_a_dry_run_tells_the_plan_and_does_nothing(fleet, place):
    before = (fleet.databases(), fleet.leftovers())
    text = fleet.ctl("shards", "move", "0", "--to", place, "--dry-run")
    assert "nothing was done" in text and place in text
    assert (fleet.databases(), fleet.leftovers()) == before and not has_database(fleet, place)
    assert "shard 1 of 2" in fleet.ctl("shards", "split", "--dry-run")


def test_what_makes_a_move_unsafe_is_told_and_nothing_begins(fleet, place):
    before = (fleet.databases(), sorted(fleet.leftovers()))
    small = pglab.Server(wal_level="replica", max_replication_slots=2,
                         max_logical_replication_workers=1)
    try:
        small.sql("ALTER ROLE postgres PASSWORD 'topsecret'")
        text = fleet.ctl("shards", "move", "0", "--to", "host=127.0.0.1"
                         f" port={small.port} dbname=mb_small", expect=1)
        assert "wal_level is not logical" in text
        assert "max_replication_slots" in text and "max_logical_replication_workers" in text
        small.stop()
        assert "failed" in fleet.ctl("shards", "move", "0", "--to", "host=127.0.0.1"
                                     f" port={small.port} dbname=mb_small", expect=1)
    finally:
        small.close()
    assert "is not empty" in fleet.ctl("shards", "move", "0", "--to", fleet.location("pattern"),
                                       expect=1)
    assert "is not a place" in fleet.ctl("shards", "move", "0", "--to", "host=127.0.0.1",
                                            expect=1)
    assert "there already" in fleet.ctl("shards", "move", "0", "--to", before[0][1][0])
    fleet.ctl("shards", "move", "7", "--to", place, expect=1)
    fleet.ctl("shards", "way-back", expect=1)
    fleet.ctl("shards", "abort", expect=1)
    assert "no superuser" in fleet.ctl("shards", "move", "0", "--to", place, expect=1,
                                       DATABASE_ADMIN_URL=fleet.env()["DATABASE_URL"])
    assert (fleet.databases(), sorted(fleet.leftovers())) == before


def test_one_mover_at_a_time(fleet, place):
    first = fleet.start("shards", "move", "0", "--to", place)
    fleet.read_to("step announce", first)
    text = fleet.ctl("shards", "move", "0", "--to", place, expect=1)
    assert "another maxboosterctl is moving shards" in text
    first.communicate()
    assert first.returncode == 0
    text = fleet.ctl("shards", "move", "0", "--to", fleet.location("mb_other"), expect=1)
    assert "end it first" in text
    fleet.ctl("shards", "clean-up")


def test_a_table_of_which_nobody_knows_where_its_rows_belong_stops_a_move(fleet, place):
    source = fleet.databases()[1][0]
    with contextlib.closing(reshardlab.connect(source)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("CREATE TABLE strange (id bigint PRIMARY KEY)")
            text = fleet.ctl("shards", "move", "0", "--to", place, expect=1)
            assert "strange has no row in shard_tables" in text
            cursor.execute("DROP TABLE strange")
