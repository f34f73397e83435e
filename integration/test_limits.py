"""Limits, on a stack of its own where they are low."""
import re
import threading
import time

import pytest

from harness.client import Client, random_address

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("guards")]


def quota(stack, name="RATE_LIMIT_MAX"):
    """A limit of the stack."""
    return int(stack.env[name])


def flood(clients, count):
    """count requests from each client at once; the replies' statuses, and the seconds it took."""
    statuses, lock = [], threading.Lock()
    start = time.monotonic()

    def one(client):
        mine = [client.get("/api/auth/me").status for _ in range(count)]
        with lock:
            statuses.extend(mine)
    threads = [threading.Thread(target=one, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return statuses, time.monotonic() - start


def test_a_user_gets_his_quota_and_no_more_however_many_clients_he_uses(private):
    user = private.user()
    clients = [Client(private.url, token=user.client.token) for _ in range(4)]
    most = quota(private)
    window_s = quota(private, "RATE_LIMIT_WINDOW_MS") / 1000
    statuses, seconds = flood(clients, most // 2)
    assert set(statuses) == {200, 429}
    admitted = statuses.count(200)
    refilled = most * seconds / window_s
    assert most - 5 <= admitted <= most + refilled + 2, (admitted, seconds)

    # A slow machine may have refilled a few meanwhile.
    replies = (user.client.get("/api/auth/me") for _ in range(most))
    reply = next(r for r in replies if r.status == 429)
    assert reply.code == "rate_limited"
    assert int(reply.headers["Retry-After"]) <= window_s
    assert re.search(r"r=0\b", reply.headers["RateLimit"])
    private.user().client.get("/api/auth/me", expect=200)


def test_a_limit_is_refilled_with_time(private):
    user = private.user()
    flood([user.client], quota(private) + 60)
    reply = user.client.get("/api/auth/me")
    from harness.waits import wait_until
    wait = int(reply.headers.get("Retry-After", "1"))
    wait_until(lambda: user.client.get("/api/auth/me").status == 200, wait + 1.5, "the refill",
               every=0.5)


def test_two_users_of_one_address_do_not_share_a_limit(private):
    address = random_address()
    one, two = private.user(), private.user()
    flood([Client(private.url, address=address, token=one.client.token)], quota(private) + 60)
    Client(private.url, address=address, token=two.client.token).get("/api/auth/me", expect=200)


def test_critical_routes_are_limited_per_address(private):
    client = private.client()
    most = quota(private, "RATE_LIMIT_CRITICAL_MAX")
    statuses = [client.post("/api/auth/password/forgot", {"email": "x@example.org"}).status
                for _ in range(most + 15)]
    assert statuses[:most] == [202] * most
    assert 429 in statuses[most:]
    private.client().post("/api/auth/password/forgot", {"email": "x@example.org"}, expect=202)


def test_an_invented_forwarded_address_buys_no_new_limit(private):
    """The right-most untrusted address counts; what stands left of it the client made up."""
    address = random_address()
    client = private.client()
    statuses = []
    for n in range(quota(private, "RATE_LIMIT_CRITICAL_MAX") + 15):
        reply = client.post("/api/auth/password/forgot", {"email": "x@example.org"},
                            headers={"X-Forwarded-For": f"203.0.113.{n}, {address}"})
        statuses.append(reply.status)
    assert 429 in statuses


def test_health_and_readiness_are_never_limited(private):
    client = private.client()
    for _ in range(quota(private) + 60):
        client.get("/api/system/health", expect=200)
    client.get("/api/system/status", expect=200)


def test_full_capacity_refuses_new_logins_and_leaves_everyone_else_alone(private, tell):
    old = private.user()
    newcomer = private.user(login=False)
    opened, refused = [], None
    live = int(re.search(r"\d+", private.ctl("sessions", "count").stdout).group())
    tell(MAX_SESSIONS=live + 3)
    for _ in range(10):
        reply = newcomer.login()
        if reply.status == 503:
            refused = reply
            break
        opened.append(Client(private.url, token=reply.json["token"]))
    assert refused is not None, "no login was refused"
    assert refused.code == "session_capacity"
    old.client.get("/api/auth/me", expect=200)
    status = private.client().get("/api/system/status", expect=(200, 503)).json
    assert status["checks"]["redis"]["status"] == "ok"
    opened[0].post("/api/auth/logout-all", expect=204)
    assert newcomer.login().status == 200
