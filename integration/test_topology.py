"""Phases 1 and 3 on stacks of their own: what several of a kind are good for, when one is lost."""
import concurrent.futures
import contextlib
import json
import uuid

import psycopg2
import pytest
import redis
import requests

from harness import audio, tracks
from harness.asking import Asking, not_200
from harness.client import Client
from harness.stack import Stack, free_port_base, private_stack
from harness.waits import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.fault, pytest.mark.xdist_group("topology")]

SLOT_LOST_WAL_MB = 1  # a bound of kept WAL that is soon passed
FAILOVER_S = 15       # node timeout 2 s, the election, and a busy machine


@pytest.fixture(scope="module", name="fleet")
def _fleet(stack):
    """Phase 1: three instances, a primary and two replicas, Redis Cluster of three pairs."""
    with private_stack(stack, "phase1", PHASE=1, SHARD_COUNT=1, RATE_LIMIT_MAX=1000000,
                       RATE_LIMIT_CRITICAL_MAX=100000) as found:
        yield found


def all_serve(fleet):
    """Is every instance ready, not only one of them?"""
    return all(requests.get(f"http://127.0.0.1:{fleet.port + 20 + n}/api/system/status",
                            timeout=10).status_code == 200 for n in range(1, 4))


@pytest.fixture(name="artist")
def _artist(fleet):
    wait_until(lambda: all_serve(fleet), 60, "every instance to be ready")
    account = fleet.user()
    yield account
    fleet.wait_ready()
    account.close()


def asking_of(artist, threads=4):
    """Threads that read the artist's account."""
    clients = [Client(artist.client.base_url, token=artist.client.token) for _ in range(threads)]
    return Asking([lambda c=client: not_200(c.get("/api/auth/me", checked=False)) for client in clients])


def health_counts(fleet):
    """Health requests that each instance has answered."""
    counts = []
    for n in range(1, 4):
        text = requests.get(f"http://127.0.0.1:{fleet.port + 20 + n}/metrics", timeout=10).text
        wanted = 'http_server_request_duration_seconds_count{http_route="GET /api/system/health"'
        counts.append(sum(float(line.rpartition(" ")[2]) for line in text.splitlines()
                          if line.startswith(wanted)))
    return counts


# --- Instances. ---

def test_every_instance_serves_and_tells_who_it_is(fleet):
    before = health_counts(fleet)

    def ask(_):
        for _ in range(40):
            fleet.client().get("/api/system/health", expect=200)
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        list(pool.map(ask, range(12)))
    assert all(now > then for now, then in zip(health_counts(fleet), before, strict=True))
    told = set()
    for log in fleet.log_files():
        for line in log.read_text().splitlines() if log.name.startswith("api") else []:
            if line.startswith("{") and '"event":"request"' in line:
                told.add(json.loads(line)["instance"])
    assert told == {"1", "2", "3"}


def test_killing_an_instance_costs_no_safe_request_an_error(fleet, artist):
    with asking_of(artist) as asking:
        for program in ("api-2", "api-3", "api"):
            asking.go_on(200)
            old = {p.pid for p in fleet.processes(program)}
            fleet.kill_whole(program)
            asking.go_on(200)
            wait_until(lambda p=program, o=old: {q.pid for q in fleet.processes(p)} - o, 20,
                       f"{program} to be back")
    assert not asking.bad, asking.bad[:3]


def test_an_instance_that_is_away_costs_no_request_an_error(fleet, artist):
    with fleet.stopped("api-2"), asking_of(artist, threads=2) as asking:
        for n in range(30):
            artist.client.patch("/api/auth/me", {"name": f"Name {n}"}, expect=200)
        asking.go_on(300)
    assert not asking.bad, asking.bad[:3]


def test_stopping_an_instance_costs_no_request_an_error(fleet, artist):
    """Not even an unsafe one: whoever came before the door closed is served, others go elsewhere."""
    accounts = [artist] + [fleet.user() for _ in range(5)]
    with Asking([lambda a=account: not_200(a.client.patch("/api/auth/me", {"name": "Somebody"}, checked=False))
                 for account in accounts]) as asking:
        for _ in range(3):
            for program in ("api-2", "api-3"):
                with fleet.stopped(program):
                    pass
    assert asking.count and not asking.bad, asking.bad[:3]


def interrupted(fleet, artist, method, path):
    """The reply to a request whose instance is killed while PostgreSQL lets it wait."""
    request_id = "cut-" + uuid.uuid4().hex
    client = fleet.client(token=artist.client.token)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with fleet.frozen("postgres"):
            waiting = pool.submit(client.request, method, path, checked=False, timeout=60,
                                  headers={"X-Request-Id": request_id})
            busy = wait_until(lambda: [n for n in fleet.programs_of("api") if in_flight(fleet, n)],
                              5, "an instance to have the request")
            for program in busy:
                fleet.kill_whole(program)
        return waiting.result(), request_id


def in_flight(fleet, program):
    """Does the instance serve a request beside the one that asks it this?"""
    number = fleet.programs_of("api").index(program) + 1
    text = requests.get(f"http://127.0.0.1:{fleet.port + 20 + number}/metrics", timeout=10).text
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines()
               if line.startswith("http_server_active_requests{")) > 1


def test_a_read_that_lost_its_instance_is_answered_by_another(fleet, artist):
    reply, _ = interrupted(fleet, artist, "GET", "/api/auth/me")
    assert reply.status == 200


def test_a_delete_that_lost_its_instance_is_not_sent_to_another(fleet, artist):
    file = audio.upload(artist.client, "a.mp3", tracks.short_mp3())
    reply, request_id = interrupted(fleet, artist, "DELETE", f"/api/audio/{file['id']}")
    assert reply.status == 503
    assert int(reply.headers["Retry-After"]) >= 1
    served = [line for log in fleet.log_files() if log.name.startswith("api")
              for line in log.read_text().splitlines() if request_id in line]
    assert not served
    fleet.wait_ready()
    assert artist.client.delete(f"/api/audio/{file['id']}").status in (204, 404)


def test_each_kind_of_job_has_workers_of_its_own(fleet, artist):
    file = audio.upload(artist.client, "a.mp3", tracks.short_mp3())
    with fleet.stopped("worker-email"):
        job = artist.client.post("/api/audio/waveform", {"fileId": file["id"]}, expect=202).json
        assert audio.wait_job(artist.client, job["jobId"])["status"] == "completed"
    with fleet.stopped("worker-audio"):
        job = artist.client.post("/api/audio/waveform", {"fileId": file["id"]}, expect=202).json
        assert artist.client.get(f"/api/jobs/{job['jobId']}").json["status"] == "queued"
    assert audio.wait_job(artist.client, job["jobId"])["status"] == "completed"


# --- Replicas. ---

def follows(fleet, program):
    """Does a replica have all that its primary has?"""
    try:
        [(lsn,)] = fleet.server_sql("postgres", "SELECT pg_current_wal_lsn()::text")
        [(has,)] = fleet.server_sql(program, "SELECT pg_is_in_recovery() AND "
                                             "pg_last_wal_replay_lsn() >= %s::pg_lsn", lsn)
    except psycopg2.OperationalError:
        return False
    return has


def test_replicas_follow_their_primary_and_come_back(fleet):
    names = fleet.programs_of("replica")
    assert len(names) == 2
    identifiers = {fleet.server_sql(n, "SELECT system_identifier FROM pg_control_system()")[0]
                   for n in [*names, "postgres"]}
    assert len(identifiers) == 1
    for name in names:
        wait_until(lambda n=name: follows(fleet, n), 20, f"{name} to follow")
    fleet.kill_whole(names[0])
    wait_until(lambda: follows(fleet, names[0]), 30, "the killed replica to follow")


def replica_reads(fleet):
    """(statements, those of them that replicas answered) of all instances so far."""
    found = [0.0, 0.0]
    for n in range(1, 4):
        text = requests.get(f"http://127.0.0.1:{fleet.port + 20 + n}/metrics", timeout=10).text
        for i, name in enumerate(("maxbooster_db_calls_total", "maxbooster_db_replica_calls_total")):
            found[i] += sum(float(line.split()[1]) for line in text.splitlines()
                            if line.startswith(f"{name} "))
    return found


def test_reads_go_to_replicas_and_a_writer_is_never_told_what_was(fleet, artist):
    """Wherever he writes and reads, and also while a replica stands still."""
    wait_until(lambda: follows(fleet, "replica") and follows(fleet, "replica-2"), 30, "replicas")
    clients = [artist.second_client() for _ in range(3)]
    before = replica_reads(fleet)
    for n in range(150):
        if n == 60:
            fleet.server_sql("replica", "SELECT pg_wal_replay_pause()")
        if n == 100:
            fleet.server_sql("replica", "SELECT pg_wal_replay_resume()")
        name = f"Artist {n}"
        clients[n % 3].patch("/api/auth/me", {"name": name}, expect=200)
        for k in range(60 if n % 10 == 0 else 4):  # at once, and long enough for replicas to follow
            seen = clients[(n + k) % 3].get("/api/auth/me", expect=200).json["name"]
            assert seen == name
    after = replica_reads(fleet)
    assert after[1] - before[1] > 100, "replicas answered hardly anything"


def test_reads_go_on_when_a_replica_dies(fleet, artist):
    with asking_of(artist) as asking:
        asking.go_on(50)
        fleet.kill_whole("replica-2")
        asking.go_on(200)
    assert not asking.bad, asking.bad[:3]
    wait_until(lambda: follows(fleet, "replica-2"), 30, "the killed replica to follow")


def copies_made(fleet, program):
    """How often a replica has been made."""
    return (fleet.folder / f"log/{program}.log").read_text().count("copied from the primary")


def test_a_replica_whose_slot_is_gone_is_made_again(fleet):
    made = copies_made(fleet, "replica")

    def dropped():
        with contextlib.suppress(psycopg2.errors.ObjectInUse):
            fleet.server_sql("postgres", "SELECT pg_terminate_backend(active_pid), "
                             "pg_drop_replication_slot(slot_name) FROM pg_replication_slots "
                             "WHERE slot_name = 'replica_1'")
        return copies_made(fleet, "replica") > made or not fleet.server_sql(
            "postgres", "SELECT 1 FROM pg_replication_slots WHERE slot_name = 'replica_1'")
    wait_until(dropped, 30, "the slot to be gone", every=0.01)
    wait_until(lambda: copies_made(fleet, "replica") > made, 60, "a new copy")
    wait_until(lambda: follows(fleet, "replica"), 30, "the new copy to follow")


def test_a_replica_that_was_away_too_long_is_made_again(fleet, artist):
    made = copies_made(fleet, "replica")
    fleet.server_sql("postgres", f"ALTER SYSTEM SET max_slot_wal_keep_size = '{SLOT_LOST_WAL_MB}MB'")
    fleet.server_sql("postgres", "SELECT pg_reload_conf()")

    def is_lost():
        fleet.server_sql("postgres", "SELECT pg_logical_emit_message(false, 'x', 'x'), "
                                     "pg_switch_wal()")
        fleet.server_sql("postgres", "CHECKPOINT")
        return fleet.server_sql("postgres", "SELECT 1 FROM pg_replication_slots WHERE "
                                "slot_name = 'replica_1' AND wal_status = 'lost'")
    try:
        with fleet.stopped("replica"):
            wait_until(is_lost, 60, "the slot to lose what the replica needs")
    finally:
        fleet.server_sql("postgres", "ALTER SYSTEM RESET max_slot_wal_keep_size")
        fleet.server_sql("postgres", "SELECT pg_reload_conf()")
    wait_until(lambda: copies_made(fleet, "replica") > made, 60, "a new copy")
    wait_until(lambda: follows(fleet, "replica"), 30, "the new copy to follow")
    artist.client.patch("/api/auth/me", {"name": "After all that"}, expect=200)


# --- Redis Cluster. ---

def roles(fleet):
    """{program: master or slave} of the nodes that answer."""
    found = {}
    for name, client in fleet.redis_nodes().items():
        with contextlib.suppress(redis.RedisError):
            found[name] = client.info("replication")["role"]
    return found


def is_whole(fleet):
    """Is every slot served, in the eyes of all nodes, and every replica linked?"""
    try:
        for client in fleet.redis_nodes().values():
            with contextlib.closing(client):
                state = client.execute_command("CLUSTER INFO")["cluster_state"]
                link = client.info("replication").get("master_link_status", "up")
                if (state, link) != ("ok", "up"):
                    return False
    except redis.RedisError:
        return False
    return True


def test_redis_goes_on_with_a_replica_and_second_up_leaves_it_so(fleet, artist):
    """The session's own master stands still: its replica takes over with the session."""
    wait_until(lambda: is_whole(fleet), 20, "a whole cluster")
    slot = fleet.redis_nodes()["redis"].execute_command("CLUSTER KEYSLOT", artist.id)
    master = next(name for name, n in zip(
        ("redis", "redis-2", "redis-3"), (5461, 10922, 16384), strict=True) if slot < n)
    copy = f"redis-{fleet.programs_of('redis').index(master) + 4}"
    if roles(fleet)[master] != "master":
        master, copy = copy, master
    with fleet.frozen(master, alone=True):
        wait_until(lambda: roles(fleet).get(copy) == "master", FAILOVER_S, f"{copy} to take over")
        wait_until(lambda: artist.client.get("/api/auth/me").status == 200, FAILOVER_S,
                   "the session to be there")
    wait_until(lambda: roles(fleet)[master] == "slave" and is_whole(fleet), 30,
               "the old master to copy the new one")
    fleet.make("up")
    assert roles(fleet)[copy] == "master"
    assert artist.client.get("/api/auth/me").status == 200


def test_every_killed_redis_node_is_back_and_sessions_are_kept(fleet, artist):
    for name in fleet.programs_of("redis"):
        fleet.kill_main(name)
    wait_until(lambda: is_whole(fleet), 30, "a whole cluster")
    wait_until(lambda: artist.client.get("/api/auth/me").status == 200, 20, "the session")


# --- The whole. ---

def test_down_and_up_keep_everything_also_on_other_ports(fleet):
    """The last test of this stack: it is elsewhere afterwards."""
    account = fleet.user()
    fleet.make("down")
    said = fleet.make("up")
    assert "6 nodes, whole" in said and "2 follow" in said
    assert account.client.get("/api/auth/me", expect=200).json["id"] == account.id
    fleet.make("down")
    with free_port_base() as base:
        assert "6 nodes, whole" in fleet.make("up", f"PORT_BASE={base}")
        moved = Stack(f"http://127.0.0.1:{base}", fleet.folder)
        assert moved.client(token=account.client.token).get("/api/auth/me", expect=200)
        assert "NO" not in moved.make("status").split()


def test_phase_3_spreads_its_shards_over_servers_and_redis_nodes(stack):
    with private_stack(stack, "phase3", PHASE=3, DB_SERVERS=4) as wide:
        assert len(wide.shard_urls()) == 16
        assert len({url.partition("?")[2] for url in wide.shard_urls()}) == 4
        assert len(wide.programs_of("api")) == 6
        assert set(roles(wide).values()) == {"master"} and len(roles(wide)) == 6
        users = [wide.user() for _ in range(6)]
        for user in users:
            assert wide.sql(wide.shard_of(user.id), "SELECT 1 FROM users WHERE id = %s", user.id)
            assert user.client.get("/api/auth/me", expect=200).json["id"] == user.id
        assert "NO" not in wide.make("status").split()
