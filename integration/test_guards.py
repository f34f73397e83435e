"""Each layer of degradation, driven into action; what status, metrics and log tell of it."""
import collections
import concurrent.futures
import contextlib
import itertools
import json
import os
import signal
import socket
import time

import pytest

from harness import audio, fastcgi, tracks
from harness.apilab import api_instance, directly, params
from harness.client import Client
from harness.waits import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("guards")]


def degradation(stack):
    """(level, layers) of status."""
    told = stack.client().get("/api/system/status", expect=(200, 503)).json["degradation"]
    return told["level"], set(told["layers"])


def acts(stack, layer, level):
    """Wait until status and metrics tell that the layer acts."""
    wait_until(lambda: (d := degradation(stack))[0] >= level and layer in d[1], 3, f"{layer} to act",
               every=0.05)
    assert stack.metrics()[f'maxbooster_layer_active{{layer="{layer}"}}'] >= 1


def rests(stack, layer):
    """Wait until they tell that it does not."""
    wait_until(lambda: layer not in degradation(stack)[1]
               and stack.metrics()[f'maxbooster_layer_active{{layer="{layer}"}}'] == 0, 8,
               f"{layer} to rest")


def test_the_rate_limiter_acts_and_everybody_else_is_served(private, tell):
    user, other = private.user(), private.user()
    tell(RATE_LIMIT_MAX=10)
    rests(private, "rate_limiter")
    before = private.metrics()["maxbooster_rate_limited_total"]
    statuses = [user.client.get("/api/auth/me").status for _ in range(20)]
    assert statuses.count(429) >= 8
    acts(private, "rate_limiter", 1)
    other.client.get("/api/auth/me", expect=200)
    assert private.metrics()["maxbooster_rate_limited_total"] >= before + 8
    rests(private, "rate_limiter")


def test_the_limiter_admits_exactly_the_quota_over_processes_and_instances(private, tell):
    """2,000 tries at once for 100 permits, without the proxy, over the stack's instance and three
    more; the window is a day, so nothing is refilled meanwhile."""
    # a machine that has other things to do must not make Redis look away
    tell(RATE_LIMIT_MAX=100, RATE_LIMIT_WINDOW_MS=86400000, BULKHEAD_PERCENT=100, REDIS_TIMEOUT_MS=8000)
    with contextlib.ExitStack() as stack, concurrent.futures.ThreadPoolExecutor(64) as pool:
        sockets = [stack.enter_context(api_instance(private, f"x{n}")).socket for n in range(3)]
        sockets.append(private.fastcgi_socket())
        for _ in range(int(os.environ.get("LIMITER_RUNS", "3"))):
            token = private.user().client.token
            answers = list(pool.map(
                lambda n, t=token: directly(sockets[n % 4], "GET", "/api/auth/sessions", t), range(2000)))
            statuses = collections.Counter(status for status, _ in answers)
            assert statuses == {200: 100, 429: 1900}, (statuses, [a for s, a in answers if s not in (200, 429)][:3])


def edge_follows(stack):
    """Wait until who carries limits to the edge is there."""
    wait_until(lambda: "/edge/" in stack.ctl("config", "members").stdout, 20, "the edge to follow")


def test_the_edge_acts_before_the_api_is_asked_and_says_so(private, tell):
    """A client that goes on past twice the quota does not reach the API any more."""
    user, other = private.user(), private.user()
    edge_follows(private)
    tell(RATE_LIMIT_MAX=10, RATE_LIMIT_WINDOW_MS=3600000)
    rests(private, "edge")
    before = private.metrics()["maxbooster_rate_limited_total"]

    def refused():
        reply = user.client.get("/api/auth/me")
        return reply if reply.status == 429 else None
    replies = [refused() for _ in range(60)]
    assert private.metrics()["maxbooster_rate_limited_total"] - before <= 15, "the API refused the rest of 20"
    assert sum(r is not None for r in replies) >= 45
    assert replies[-1].code == "rate_limited" and int(replies[-1].headers["Retry-After"]) >= 1
    wait_until(lambda: refused() and "edge" in degradation(private)[1], 20, "status to tell", every=0)
    wait_until(lambda: refused() and private.metrics()['maxbooster_layer_active{layer="edge"}'], 20,
               "the metrics to tell", every=0)
    lines = [json.loads(line) for line in (private.folder / "log/edge.log").read_text().splitlines()]
    refusals = [line for line in lines if line["event"] == "refused" and line["path"] == "/api/auth/me"]
    assert {line["status"] for line in refusals} == {429} and len(refusals) >= 35
    other.client.get("/api/auth/me", expect=200)
    rests(private, "edge")


def test_the_edge_follows_what_the_fleet_is_told(private, tell):
    """More than the edge let through before, as fast as one client asks; then it is narrow again."""
    user, names = private.user(), ("zone.conf", "requests.conf", "connections.conf", "policy.conf")

    def files():
        return [(private.folder / "run/edge" / name).read_text() for name in names]
    edge_follows(private)
    before = files()
    tell(RATE_LIMIT_MAX=100000)
    assert collections.Counter(user.client.get("/api/auth/sessions").status for _ in range(1000)) == {200: 1000}
    tell(RATE_LIMIT_MAX="")
    assert files() == before
    private.kill_main("edge-limits")
    tell(RATE_LIMIT_MAX=300)
    wait_until(lambda: "burst=600" in files()[1], 10, "its successor to carry what was told meanwhile")


def test_a_dear_route_costs_what_the_operator_says(private, tell):
    user = private.user()
    tell(RATE_LIMIT_MAX=100, RATE_LIMIT_WINDOW_MS=3600000,
         RATE_LIMIT_COSTS="GET /api/auth/sessions=30,GET /api/users/*=7")
    statuses = [user.client.get("/api/auth/sessions").status for _ in range(4)]
    assert statuses == [200, 200, 200, 429]
    assert user.client.get("/api/auth/me", expect=200).headers["RateLimit"].startswith(
        '"default";r=9;')


def test_a_limiter_in_shadow_refuses_nobody_and_tells_whom_it_would(private, tell):
    user = private.user()
    tell(RATE_LIMIT_MAX=10, GUARDS_SHADOW="rate,load,csrf", QUEUE_DELAY_TARGET_MS=20)
    before = private.metrics()["maxbooster_guard_shadowed_total"]
    statuses = [user.client.get("/api/auth/me").status for _ in range(20)]
    assert statuses == [200] * 20
    reply = user.client.get("/api/auth/me", headers={"X-Request-Id": "shadow-0001"}, expect=200)
    assert reply.headers["RateLimit"].startswith('"default";r=0;')
    assert private.log_lines("shadow-0001")[0]["shadow"] == "rate"
    assert private.metrics()["maxbooster_guard_shadowed_total"] >= before + 9
    status, _ = directly(private.fastcgi_socket(), "GET", "/api/auth/me", user.client.token,
                         age_s=30)
    assert status == 200


def test_a_full_fleet_takes_no_newcomer_and_leaves_everybody_else_alone(private, tell):
    inside, newcomer = private.user(), private.user(login=False)
    tell(MAX_SESSIONS=1)
    assert newcomer.login().code == "session_capacity"
    acts(private, "session_guard", 2)
    inside.client.get("/api/auth/me", expect=200)
    tell(GUARDS_SHADOW="session_capacity")
    before = private.metrics()["maxbooster_guard_shadowed_total"]
    assert newcomer.login().status == 200
    assert private.metrics()["maxbooster_guard_shadowed_total"] == before + 1
    rests(private, "session_guard")


def test_fewer_are_worked_on_at_once_when_requests_get_slower_than_usual(private, tell):
    """No slowness is tolerated here, so a storm of requests, which slow each other down, must shrink
    the limit; when it is over all are served."""
    user, threads = private.user(), 2 * 16
    socket_path = private.fastcgi_socket()

    def limit():
        return min(v for k, v in private.metrics().items()
                   if k.startswith("maxbooster_concurrency_limit") and v > 0)
    tell(LOAD_TOLERANCE_PERCENT=100, LOAD_CONCURRENCY_MIN=1, RATE_LIMIT_MAX=1000000)
    with concurrent.futures.ThreadPoolExecutor(48) as pool:
        def storm():
            found = collections.Counter(pool.map(
                lambda _: directly(socket_path, "GET", "/api/auth/me", user.client.token)[0],
                range(400)))
            assert set(found) <= {200, 503}, found
            return found[503] > 0 and limit() < threads
        wait_until(storm, 60, "the limit to shrink", every=0)
        acts(private, "connection_guard", 3)
    tell(LOAD_TOLERANCE_PERCENT=100000)
    wait_until(lambda: [user.client.get("/api/auth/me").status for _ in range(10)] == [200] * 10, 10,
               "everybody to be served")


def test_requests_that_waited_too_long_are_refused_by_class(private, tell):
    tell(QUEUE_DELAY_TARGET_MS=20, QUEUE_DELAY_INTERVAL_MS=100)
    user = private.user()
    socket = private.fastcgi_socket()
    file = audio.upload(user.client, "a.mp3", tracks.short_mp3())
    rests(private, "connection_guard")

    def ask(method, path, age_s):
        return directly(socket, method, path, user.client.token, age_s=age_s)[0]
    shed = [f"maxbooster_shed_{c}_total" for c in ("bulk", "best_effort", "normal")]
    before = private.metrics()
    # QUEUE_DELAY_INTERVAL_MS is 100: once, twice, 4 and 50 times that by class
    assert ask("POST", "/api/audio/waveform", 0.15) == 503
    assert ask("GET", "/api/jobs", 0.25) == 503
    status, answer = directly(socket, "GET", "/api/auth/me", user.client.token, age_s=0.5)
    assert status == 503 and "overloaded" in answer and "Retry-After: 1" in answer
    after = private.metrics()
    assert [after[name] - before[name] for name in shed] == [1, 1, 1]
    acts(private, "connection_guard", 3)
    assert ask("POST", "/api/auth/logout", 2) == 204
    assert ask("GET", "/api/system/health", 50) == 200
    rests(private, "connection_guard")
    assert file["status"] == "verified"


def test_short_memory_is_refused_to_bulk_first(private, tell):
    user = private.user()
    rests(private, "memory")
    bulk = {"fileId": "9b2f61d4-0199-8a4b-9c3d-7f6a5b4c3d2e"}

    def ask():
        return (user.client.get("/api/auth/me").status, user.client.get("/api/jobs").status,
                user.client.post("/api/audio/waveform", bulk).status)
    assert ask() == (200, 200, 404)
    assert max(v for k, v in private.metrics().items()
               if k.startswith("maxbooster_process_memory_bytes")) > 1 << 20
    tell(MEMORY_WARNING_THRESHOLD=1, MEMORY_SHED_BULK_THRESHOLD=1)
    wait_until(lambda: [ask() for _ in range(4)] == [(200, 200, 503)] * 4, 10, "bulk to be refused")
    acts(private, "memory", 3)
    tell(MEMORY_SHED_BEST_EFFORT_THRESHOLD=1)
    wait_until(lambda: [ask() for _ in range(4)] == [(200, 503, 503)] * 4, 10,
               "best effort to be refused too")


def test_a_process_that_holds_too_much_memory_is_replaced_one_at_a_time(private, tell):
    before = {p.pid for p in private.api_workers()}
    statuses, most_gone = [], 0
    tell(MEMORY_WARNING_THRESHOLD=1, MEMORY_SHED_BULK_THRESHOLD=1,
         MEMORY_SHED_BEST_EFFORT_THRESHOLD=1, MEMORY_RECYCLE_THRESHOLD=1)
    deadline = time.monotonic() + 30

    def ask(_):
        client = private.client()  # another address, so that a fast machine meets no limit
        return client.get("/api/system/health").status, client.get("/api/auth/me").status
    with concurrent.futures.ThreadPoolExecutor(16) as pool:  # at once, so that every process gets some
        while before & {p.pid for p in private.api_workers()} and time.monotonic() < deadline:
            statuses += itertools.chain.from_iterable(pool.map(ask, range(16)))
            most_gone = max(most_gone, len(before) - len(private.api_workers()))
    assert not before & {p.pid for p in private.api_workers()}
    assert set(statuses) == {200, 401}
    assert most_gone <= len(private.programs_of("api"))  # each instance minds its own
    assert private.metrics()["maxbooster_processes_recycled_total"] >= len(before)


def test_without_redis_strangers_are_limited_by_each_process_itself(private, tell):
    """A public profile needs PostgreSQL only; its limit becomes the processes' own."""
    user, instances_there = private.user(), len(private.programs_of("api"))
    path = f"/api/users/{user.id}"
    tell(RATE_LIMIT_MAX=40, RATE_LIMIT_WINDOW_MS=3600000)
    with private.stopped("redis"):
        wait_until(lambda: private.client().get(path).status == 200, 5, "the profile")
        one = Client(private.url)
        statuses = collections.Counter(one.get(path).status for _ in range(60 * instances_there))
        assert set(statuses) == {200, 429}
        # Half of the quota for each of an instance's two processes.
        assert 20 <= statuses[200] <= 40 * instances_there, statuses
        signed_in = Client(private.url, token=user.client.token)
        assert signed_in.get(path, expect=200).json["id"] == user.id
        assert user.client.get("/api/auth/me").status == 503
        acts(private, "dependency", 4)
        assert private.metrics()["maxbooster_rate_local_total"] >= 60
    private.wait_ready()


def test_a_dead_s3_is_left_alone_and_probed_until_it_is_back(private):
    """Half-open: one probe a second finds it again; nobody restarts anything."""
    user = private.user()
    grant = audio.store(user.client, "a.mp3", tracks.short_mp3())
    before = {p.pid for p in private.api_workers()}
    refused = private.metrics()["maxbooster_dependency_broken_off_total"]
    with private.stopped("s3"):
        def left_alone():
            reply = audio.complete(user.client, grant["key"], expect=503)
            assert reply.code == "dependency_unavailable"
            return private.metrics()["maxbooster_dependency_broken_off_total"] > refused
        wait_until(left_alone, 30, "S3 to be left alone")
        acts(private, "dependency", 4)
        user.client.get("/api/auth/me", expect=200)
    wait_until(lambda: audio.complete(user.client, grant["key"]).status == 201, 20, "S3 to be used again")
    assert {p.pid for p in private.api_workers()} == before
    private.wait_ready()


def test_an_instance_that_ends_says_so_to_whoever_still_asks(private):
    """On a connection that was there before; new ones go to the processes that follow."""
    def ask(connection):
        connection.sendall(fastcgi.request(params("GET", "/api/system/status"), flags=1))
        answer = b""
        while fastcgi.END not in fastcgi.kinds_of(answer):
            piece = connection.recv(65536)
            assert piece, answer
            answer += piece
        return fastcgi.stdout_of(answer)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect(private.fastcgi_socket())
        assert ask(connection).startswith("Status: 200")
        before = {p.pid for p in private.api_workers()}
        for pid in before:
            private.kill(pid, signal.SIGTERM)
        answer = wait_until(lambda: (a := ask(connection)).startswith("Status: 503") and a, 3,
                            "readiness to tell the end")
        assert '"status":"down"' in answer and "Retry-After" in answer
    wait_until(lambda: not before & {p.pid for p in private.api_workers()}, 15, "other processes")
    private.wait_ready()
