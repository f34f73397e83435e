"""The relay of domain events, with real schedulers, over its own PostgreSQL and Redis: every event of a
committed transaction reaches the bus, in order per user, whoever dies."""
import json
import pathlib
import re
import signal
import subprocess
import threading

import psycopg2
import pytest


from harness import bus, fired, queuelab
from harness.apilab import api_of
from harness.waits import wait_until

ROOT = pathlib.Path(__file__).resolve().parent.parent
WITHIN_S = 30
# The program's own statement, so that the test writes as the program does.
ADD = re.sub(r"\$\d+", "%s", re.search(
    r"(WITH head AS .*?RETURNING seq);", (ROOT / "sql/queries/outbox.sql").read_text(), re.S).group(1))


def add(connection, user, name="x", kind="user.renamed", data=None):
    """Add an event within the connection's transaction; its number."""
    with connection.cursor() as cursor:
        cursor.execute(ADD, (user, queuelab.owned_id(user), user, kind, 1, None,
                             json.dumps(data or {"name": name})))
        return cursor.fetchone()[0]


def shard_of_user(user):
    """Any database will do for a test; the same for a user always."""
    return int(user[-1], 16) % queuelab.SHARDS


def connect(lab, user):
    """A connection to the database of a user."""
    return psycopg2.connect(lab.postgres.url(shard_of_user(user)))


def committed(lab):
    """{user: numbers of his events that are committed}."""
    found = {}
    for shard in range(queuelab.SHARDS):
        for user, seq in lab.postgres.sql(shard, "SELECT user_id::text, seq FROM outbox ORDER BY 1, 2"):
            found.setdefault(user, []).append(seq)
    return found


def waiting(lab):
    """How many events wait."""
    return sum(lab.postgres.sql(s, "SELECT count(*) FROM outbox WHERE relayed_at IS NULL AND "
                                   "parked_at IS NULL")[0][0] for s in range(queuelab.SHARDS))


def wait_all_relayed(lab, seconds=WITHIN_S):
    """Wait until the bus has everything; then judge it."""
    wait_until(lambda: waiting(lab) == 0, seconds, "all events to be relayed")
    wanted = committed(lab)
    assert bus.sequences(lab.redis.client) == wanted
    assert all(numbers == list(range(1, len(numbers) + 1)) for numbers in wanted.values())


def wait_for_line(process, text):
    """Wait until a process has logged this."""
    wait_until(lambda: any(text in line.get("message", "") for line in process.lines), WITHIN_S,
               f"the line {text!r}")


class Writers:
    """Threads that change things all the time: each a few users, some transactions rolled back."""

    def __init__(self, lab, count=4, users=5):
        self.lab, self.stop, self.n_committed = lab, threading.Event(), 0
        self.users = [queuelab.user_id() for _ in range(users)]
        self.threads = [threading.Thread(target=self._write, args=(n,)) for n in range(count)]
        for thread in self.threads:
            thread.start()

    def _write(self, number):
        connections = {u: connect(self.lab, u) for u in self.users}
        count = 0
        while not self.stop.is_set():
            user = self.users[count % len(self.users)]
            for _ in range(1 + count % 3):
                add(connections[user], user, f"{number}-{count}")
            if count % 5 == 4:
                connections[user].rollback()
            else:
                connections[user].commit()
                self.n_committed += 1
            count += 1
            self.stop.wait(0.002)
        for connection in connections.values():
            connection.close()

    def wrote(self, least):
        """Wait until so many transactions are committed from now on."""
        goal = self.n_committed + least
        wait_until(lambda: self.n_committed >= goal, WITHIN_S, f"{least} more transactions")

    def end(self):
        """Let them end."""
        self.stop.set()
        for thread in self.threads:
            thread.join()


@pytest.fixture(scope="module", name="shared_lab")
def _shared_lab(tmp_path_factory):
    programs = queuelab.build("bin/maxbooster-worker", "bin/maxbooster-scheduler",
                              "bin/maxboosterctl", "loadtest/queue_driver")
    lab = queuelab.Lab(tmp_path_factory.mktemp("outbox"), programs)
    yield lab
    lab.close()


@pytest.fixture(name="lab")
def _lab(shared_lab):
    shared_lab.redis.client.flushall()
    for shard in range(queuelab.SHARDS):
        shared_lab.postgres.sql(shard, "TRUNCATE outbox, outbox_heads")
    yield shared_lab
    for process in shared_lab.processes:
        process.kill()
    shared_lab.processes.clear()


@pytest.fixture(name="writers")
def _writers(lab):
    writers = Writers(lab)
    yield writers
    writers.end()


# --- The ordinary. ---

def test_an_event_reaches_the_bus_as_a_cloudevent(lab):
    lab.scheduler()
    user, event_id = queuelab.user_id(), None
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with connect(lab, user) as connection, connection.cursor() as cursor:
        event_id = queuelab.owned_id(user)
        cursor.execute(ADD, (user, event_id, user, "user.renamed", 2, trace, '{"name": "N\\"ü"}'))
    wait_all_relayed(lab)
    (event,) = bus.events(lab.redis.client)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", event.pop("time"))
    assert event == {
        "specversion": "1.0", "id": event_id, "source": "/maxbooster", "type": "user.renamed",
        "dataversion": "2", "subject": user, "sequence": "1", "traceparent": trace,
        "datacontenttype": "application/json", "data": {"name": 'N"ü'}}


def test_a_user_is_in_one_partition_and_users_are_in_all(lab):
    lab.scheduler()
    users = [queuelab.user_id() for _ in range(80)]
    for user in users:
        with connect(lab, user) as connection:
            add(connection, user)
            add(connection, user)
    wait_all_relayed(lab)
    places = {}
    for partition, event in bus.entries(lab.redis.client):
        places.setdefault(event["subject"], set()).add(partition)
    assert all(len(p) == 1 for p in places.values())
    assert len(set.union(*places.values())) == bus.PARTITIONS


def test_what_is_rolled_back_is_never_told(lab):
    lab.scheduler()
    user = queuelab.user_id()
    connection = connect(lab, user)
    add(connection, user, "never")
    connection.rollback()
    add(connection, user, "yes")
    connection.commit()
    connection.close()
    wait_all_relayed(lab)
    assert [e["data"]["name"] for e in bus.events(lab.redis.client)] == ["yes"]


def test_writers_of_one_user_take_turns_so_that_commits_are_in_the_order_of_events(lab):
    user = queuelab.user_id()
    first, second = connect(lab, user), connect(lab, user)
    assert add(first, user) == 1
    got = []
    thread = threading.Thread(target=lambda: (got.append(add(second, user)), second.commit()))
    thread.start()
    wait_until(lambda: lab.postgres.sql(
        shard_of_user(user), "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"),
        WITHIN_S, "the second to wait")
    first.rollback()
    thread.join(WITHIN_S)
    assert got == [1]  # no gap, since the first never was
    first.close()
    second.close()


def test_a_backlog_is_relayed_whole(lab):
    users = [queuelab.user_id() for _ in range(3)]
    for user in users:
        with connect(lab, user) as connection:
            for n in range(700):
                add(connection, user, str(n))
    lab.scheduler()
    wait_all_relayed(lab)
    assert len(bus.entries(lab.redis.client)) == 2100


def test_a_stream_keeps_about_as_many_events_as_it_is_told_to(lab):
    lab.scheduler(EVENT_STREAM_MAX="100")
    user = queuelab.user_id()
    with connect(lab, user) as connection:
        for n in range(1000):
            add(connection, user, str(n))
    wait_until(lambda: waiting(lab) == 0, WITHIN_S, "all events to be relayed")
    kept = [int(e["sequence"]) for e in bus.events(lab.redis.client)]
    assert 100 <= len(kept) < 400 and kept == list(range(1001 - len(kept), 1001))


def test_relayed_events_are_swept_after_their_time_and_others_are_not(lab):
    door = queuelab.free_port()
    lab.scheduler(EVENT_KEEP_S="60", SWEEP_INTERVAL_S="1", METRICS_PORT=str(door))
    user = queuelab.user_id()
    with connect(lab, user) as connection:
        for _ in range(3):
            add(connection, user)
    wait_until(lambda: waiting(lab) == 0, WITHIN_S, "all events to be relayed")
    shard = shard_of_user(user)
    lab.postgres.sql(shard, "UPDATE outbox SET relayed_at = now() - interval '61 s' WHERE seq < 3")
    wait_until(lambda: lab.postgres.sql(shard, "SELECT seq FROM outbox") == [(3,)], WITHIN_S,
               "the sweep")
    wait_until(lambda: sum(v for k, v in fired.page(door).items() if k.startswith("maxbooster_sweep_swept_total")) == 2,
               WITHIN_S, "the metric")
    with connect(lab, user) as connection:
        assert add(connection, user) == 4  # the number goes on


# --- Death and loss. ---

def test_no_event_is_lost_and_none_out_of_order_while_schedulers_are_killed(lab, writers):
    for _ in range(5):
        scheduler = lab.scheduler()
        writers.wrote(60)
        scheduler.kill()
        lab.redis.client.delete("lock:{scheduler}")  # or the next one would wait for it to run out
    lab.scheduler()
    writers.wrote(20)
    writers.end()
    wait_all_relayed(lab)


def test_no_event_is_lost_and_none_out_of_order_while_redis_is_killed(lab, writers):
    lab.scheduler()
    for _ in range(4):
        writers.wrote(60)
        lab.redis.kill()
        writers.wrote(30)  # the database takes them meanwhile
        lab.redis.start()
    writers.wrote(30)
    writers.end()
    wait_all_relayed(lab, 60)


def test_events_wait_while_redis_is_away(lab):
    scheduler = lab.scheduler()
    user = queuelab.user_id()
    wait_for_line(scheduler, "leading, with fence")
    lab.redis.kill()
    with connect(lab, user) as connection:
        for _ in range(5):
            add(connection, user)
    wait_for_line(scheduler, "no longer leading")
    assert waiting(lab) == 5
    lab.redis.start()
    wait_all_relayed(lab)


def test_a_relay_that_dies_before_it_has_marked_what_it_sent_sends_it_again(lab):
    """The database stands still while the bus takes the events: the mark is not made."""
    lab.scheduler()
    user = queuelab.user_id()
    with connect(lab, user) as connection:
        for _ in range(3):
            add(connection, user)
    wait_all_relayed(lab)
    for process in lab.processes:
        process.kill()
    lab.postgres.sql(shard_of_user(user), "UPDATE outbox SET relayed_at = NULL WHERE seq > 1")
    lab.redis.client.delete("lock:{scheduler}")
    lab.scheduler()
    wait_all_relayed(lab)
    sent = [int(e["sequence"]) for _, e in bus.entries(lab.redis.client)]
    assert len(sent) >= 5 and sent.count(2) >= 2
    ids = [e["id"] for _, e in bus.entries(lab.redis.client)]
    assert len(set(ids)) == 3  # the same ids: a consumer sees three events


def test_a_bus_that_has_lost_everything_gets_everything_again(lab, writers):
    lab.scheduler()
    writers.wrote(100)
    lab.redis.lose_all()
    lab.redis.start()
    writers.wrote(50)
    writers.end()

    def is_whole():
        return waiting(lab) == 0 and bus.sequences(lab.redis.client) == committed(lab)
    wait_until(is_whole, 60, "everything to be there again, in order")


def test_a_bus_that_has_lost_the_end_of_a_stream_gets_it_again_before_anything_new(lab):
    """As a replica does that is promoted before it had the last entries."""
    lab.scheduler()
    user = queuelab.user_id()
    with connect(lab, user) as connection:
        for _ in range(10):
            add(connection, user)
    wait_all_relayed(lab)
    client = lab.redis.client
    (key,) = [bus.stream(p) for p in range(bus.PARTITIONS) if client.xlen(bus.stream(p))]
    ids = [entry for entry, _ in client.xrange(key)]
    pipe = client.pipeline(transaction=True)
    pipe.xdel(key, *ids[6:])
    pipe.execute_command("XSETID", key, ids[5])
    pipe.execute()
    with connect(lab, user) as connection:
        add(connection, user)
    wait_until(lambda: bus.sequences(client).get(user) == list(range(1, 12)), WITHIN_S,
               "the lost events, in order")


# --- Who must not hold the others up. ---

def test_an_event_that_the_bus_will_never_take_is_parked_and_stops_nobody(lab):
    user, other = queuelab.user_id(), queuelab.user_id()
    for who in (user, other):
        with connect(lab, who) as connection:
            add(connection, who, "before")
            if who == user:
                add(connection, who, data={"name": "x" * 400000})
            add(connection, who, "after")
    scheduler = lab.scheduler()
    wait_until(lambda: waiting(lab) == 0, WITHIN_S, "the others to be relayed")
    assert bus.sequences(lab.redis.client) == {user: [1, 3], other: [1, 2]}  # the gap tells
    ((seq, reason),) = lab.postgres.sql(shard_of_user(user), "SELECT seq, reason FROM outbox WHERE "
                                        "parked_at IS NOT NULL")
    assert seq == 2 and "400" in reason and "bytes" in reason
    wait_for_line(scheduler, "is parked")
    with api_of(queuelab.build("bin/maxbooster-api")[0], "outbox", **lab.env()) as api:
        wait_until(lambda: api.metrics().get("maxbooster_outbox_parked") == 1, WITHIN_S, "the metric")


def test_a_partition_that_fails_leaves_the_others_alone(lab):
    users = [queuelab.user_id() for _ in range(60)]
    lab.redis.client.set(bus.stream(3), "not a stream")
    for user in users:
        with connect(lab, user) as connection:
            add(connection, user)
    lab.scheduler()
    in_three = [u for u in users if int(queuelab.owned_id(u)[:8], 16) % bus.PARTITIONS == 3]
    assert in_three
    wait_until(lambda: waiting(lab) == len(in_three), WITHIN_S, "the other partitions")
    lab.redis.client.delete(bus.stream(3))
    wait_all_relayed(lab)


def test_a_leader_that_is_no_longer_one_cannot_publish(lab):
    """Somebody with a higher number has been at the partition: we hold back until he is forgotten."""
    user = queuelab.user_id()
    partition = int(queuelab.owned_id(user)[:8], 16) % bus.PARTITIONS
    fence = bus.stream(partition) + ":fence"
    lab.redis.client.set(fence, 9 * 10 ** 15)
    scheduler = lab.scheduler()
    with connect(lab, user) as connection:
        add(connection, user)
    wait_for_line(scheduler, "a newer leader relays")
    assert waiting(lab) == 1 and not bus.entries(lab.redis.client)
    lab.redis.client.delete(fence)
    wait_all_relayed(lab)


def test_a_database_that_is_away_leaves_the_others_alone(lab):
    users = [queuelab.user_id() for _ in range(10)]
    lab.scheduler()
    lab.postgres.stop()
    lab.postgres.start()
    for user in users:
        with connect(lab, user) as connection:
            add(connection, user)
    wait_all_relayed(lab)


def test_the_depth_and_the_age_are_told(lab):
    user = queuelab.user_id()
    lab.redis.client.set(bus.stream(int(queuelab.owned_id(user)[:8], 16) % bus.PARTITIONS), "x")
    with connect(lab, user) as connection:
        add(connection, user)
        add(connection, user)
    lab.scheduler()

    with api_of(queuelab.build("bin/maxbooster-api")[0], "outbox", **lab.env()) as api:
        def told(name):
            return api.metrics().get(f"maxbooster_outbox_{name}", -1)
        wait_until(lambda: told("waiting") == 2 and told("oldest_milliseconds") > 0, WITHIN_S, "the metrics")
        lab.redis.client.delete(bus.stream(int(queuelab.owned_id(user)[:8], 16) % bus.PARTITIONS))
        wait_until(lambda: told("waiting") == 0 and told("relayed_total") == 2, WITHIN_S, "the metrics")


def test_a_scheduler_that_stood_still_harms_nobody(lab, writers):
    first = lab.scheduler()
    writers.wrote(30)
    first.signal(signal.SIGSTOP)
    lab.redis.client.delete("lock:{scheduler}")
    lab.scheduler()
    writers.wrote(60)
    first.signal(signal.SIGCONT)
    writers.wrote(30)
    writers.end()
    wait_all_relayed(lab)


def test_a_bus_that_this_version_does_not_speak_to_is_refused_at_the_start(lab):
    done = subprocess.run([lab.scheduler_program], env=lab.env(EVENT_BUS="kafka"), text=True,
                          capture_output=True, timeout=20, check=False)
    assert done.returncode == 78
    assert 'EVENT_BUS is "kafka": this version publishes to redis only.' in done.stderr


