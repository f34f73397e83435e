"""Each dependency down and half-open: bounded answers, right codes, recovery without a restart."""
import concurrent.futures
import contextlib
import time
import urllib.parse
import uuid

import pytest

from harness import audio, tracks
from harness.stack import wait_steady
from harness.waits import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.fault, pytest.mark.xdist_group("private")]

CHECKS = {"redis": "redis", "postgres": "database", "s3": "storage"}
BOUND_S = 12  # REQUEST_TIMEOUT_MS and the way through the proxy
DOWN = ["stopped", "frozen"]


@pytest.fixture
def user(private):
    """An account with an upload that waits to be completed."""
    account = private.user()
    account.pending = audio.store(account.client, "pending.mp3", tracks.short_mp3())
    yield account
    wait_steady(account.client)
    account.close()


@pytest.fixture
def api_pids(private):
    """Nothing may restart the API processes."""
    before = {p.pid for p in private.api_workers()}
    yield before
    assert {p.pid for p in private.api_workers()} == before


def refused(client, method, path, **options):
    """A request that needs what is not there: a 503 in bounded time."""
    start = time.monotonic()
    reply = client.request(method, path, expect=503, timeout=BOUND_S + 10, **options)
    assert time.monotonic() - start < BOUND_S
    assert reply.code in ("dependency_unavailable", "timed_out", "write_unknown", "overloaded",
                          "pool_saturated"), reply
    assert int(reply.headers["Retry-After"]) >= 1
    return reply


def still_healthy(client):
    """Health does not wait for anybody."""
    assert client.get("/api/system/health", expect=200).seconds < 1


def told_down(client, program):
    """Readiness says who is down, and of nobody else; what it says may be a moment old."""
    def told():
        start = time.monotonic()
        reply = client.get("/api/system/status", expect=(200, 503), timeout=BOUND_S + 10)
        assert time.monotonic() - start < BOUND_S
        return reply.status == 503 and reply.json["checks"]
    checks = wait_until(told, 5, f"readiness to see {program} down")
    assert checks[CHECKS[program]]["status"] == "down", checks
    for other in ("redis", "postgres", "s3"):
        if other != program:
            assert checks[CHECKS[other]]["status"] != "down", checks


@pytest.mark.parametrize("how", DOWN)
def test_without_redis_nobody_is_served_blindly_and_all_comes_back(private, user, api_pids, how):
    with getattr(private, how)("redis"):
        still_healthy(private.client())
        refused(user.client, "GET", "/api/auth/me")
        refused(user.client, "POST", "/api/audio/upload-url",
                json={"fileName": "a.mp3", "contentType": "audio/mpeg", "size": 9})
        refused(private.client(), "POST", "/api/auth/login", json={"email": user.email,
                "password": user.password})
        told_down(private.client(), "redis")
        still_healthy(private.client())
    wait_until(lambda: user.client.get("/api/auth/me").status == 200, 15, "Redis to be used again")
    private.wait_ready()


@pytest.mark.parametrize("how", DOWN)
def test_without_postgresql_reads_and_writes_are_refused_and_all_comes_back(
        private, user, api_pids, how):
    with getattr(private, how)("postgres"):
        still_healthy(private.client())
        refused(user.client, "GET", "/api/auth/me")
        write = refused(user.client, "POST", "/api/audio/upload-url",
                        json={"fileName": "a.mp3", "contentType": "audio/mpeg", "size": 9})
        assert user.client.get("/api/auth/sessions",
                               expect=200).seconds < 2, "sessions need Redis only"
        told_down(private.client(), "postgres")
        still_healthy(private.client())
    wait_until(lambda: user.client.get("/api/auth/me").status == 200, 30,
               "PostgreSQL to be used again")
    files = [f["id"] for f in user.client.get("/api/audio", expect=200).json["items"]]
    assert user.pending["fileId"] in files
    assert len(files) == 1 or write.code == "write_unknown", f"{write.code}, yet it took effect"
    private.wait_ready()


@contextlib.contextmanager
def shard_away(private, shard):
    """One shard's database takes no connections, and those that it had are ended."""
    name = urllib.parse.urlsplit(private.shard_urls()[shard]).path.lstrip("/")
    server = private.server_of(shard)
    private.server_sql(server, f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    try:
        private.server_sql(server, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                           "WHERE datname = %s", name)
        yield
    finally:
        private.server_sql(server, f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")


def test_a_shard_that_is_down_takes_only_its_own_users(private, api_pids):
    word = f"Solo{uuid.uuid4().hex[:8]}"
    here = private.user(name=f"{word} one")
    there = private.user(name=f"{word} two")
    for _ in range(30):
        if private.shard_of(there.id) != private.shard_of(here.id):
            break
        there = private.user(name=f"{word} two")
    with shard_away(private, private.shard_of(there.id)):
        refused(there.client, "GET", "/api/auth/me")
        here.client.get("/api/auth/me", expect=200)
        found = here.client.get(f"/api/users/search?q={word}", expect=200).json
        assert (found["partial"], found["shardsFailed"]) == (True, 1)
        assert {private.shard_of(item["id"]) for item in found["items"]} == {
            private.shard_of(here.id)}
    wait_until(lambda: there.client.get("/api/auth/me").status == 200, 30, "the shard to be back")
    found = wait_until(lambda: (reply := here.client.get(f"/api/users/search?q={word}")).status
                       == 200 and not reply.json["partial"] and reply.json, 10, "a whole answer")
    assert {here.id, there.id} <= {item["id"] for item in found["items"]}


@pytest.mark.parametrize("how", DOWN)
def test_without_s3_everything_else_goes_on_and_uploads_wait(private, user, api_pids, how):
    with getattr(private, how)("s3"):
        still_healthy(private.client())
        user.client.get("/api/auth/me", expect=200)
        audio.begin_upload(user.client, "b.mp3", b"x")
        refused(user.client, "POST", "/api/audio/complete-upload",
                json={"key": user.pending["key"]})
        told_down(private.client(), "s3")
    done = wait_until(lambda: (r := audio.complete(user.client, user.pending["key"])).status == 201
                      and r, 20,
                      "S3 to be used again")
    assert done.json["status"] == "verified"
    private.wait_ready()


@pytest.mark.parametrize("program,path", [("postgres", "/api/auth/me"), ("redis", "/api/auth/me"),
                                          ("s3", None)])
def test_a_dependency_that_hangs_takes_no_threads_from_routes_that_do_without_it(private, user,
        program, path):
    """More requests than there are threads hang; health and what needs another dependency go on."""
    threads = len(private.api_workers()) * int(private.env["API_THREADS"])

    def hang(_):
        client = private.client(token=user.client.token)
        if path:
            return client.get(path, checked=False, timeout=60).status
        return client.post("/api/audio/complete-upload", {"key": user.pending["key"]},
                           checked=False, timeout=60).status
    with concurrent.futures.ThreadPoolExecutor(threads + 8) as pool:
        with private.frozen(program):
            hanging = [pool.submit(hang, n) for n in range(threads + 8)]
            for _ in range(5):
                assert private.client().get("/api/system/health", expect=200,
                                            timeout=60).seconds < 3
        statuses = {f.result() for f in hanging}
    assert statuses <= {200, 201, 503, 429, 409}, statuses
    wait_until(lambda: user.client.get("/api/auth/me").status == 200, 30, "everything to be back")


def test_a_job_waits_for_s3_and_is_done_when_it_is_back(private):
    account = private.user()
    file = audio.upload(account.client, "a.mp3", tracks.short_mp3())
    with private.stopped("s3"):
        job = account.client.post("/api/audio/waveform", {"fileId": file["id"]},
                                  expect=202).json["jobId"]
        wait_until(lambda: account.client.get(f"/api/jobs/{job}").json["status"] == "processing",
                   10, "a try")
    assert audio.wait_job(account.client, job)["status"] == "completed"


def test_a_job_is_promised_without_the_worker_and_done_when_it_is_there(private):
    account = private.user()
    file = audio.upload(account.client, "a.mp3", tracks.short_mp3())
    with private.stopped("worker"):
        job = account.client.post("/api/audio/waveform", {"fileId": file["id"]},
                                  expect=202).json["jobId"]
        assert account.client.get(f"/api/jobs/{job}").json["status"] == "queued"
    assert audio.wait_job(account.client, job)["status"] == "completed"


def test_a_job_that_redis_forgot_is_put_back(private):
    account = private.user()
    file = audio.upload(account.client, "a.mp3", tracks.short_mp3())
    with private.stopped("worker"):
        job = account.client.post("/api/audio/waveform", {"fileId": file["id"]},
                                  expect=202).json["jobId"]
        connection = private.redis()
        for key in connection.scan_iter(match="*{audio}*", count=1000):
            connection.delete(key)
    assert audio.wait_job(account.client, job)["status"] == "completed"
