"""The shared cache, by the route that uses it: public profiles. And the fleet's locks, by the scheduler's."""
import concurrent.futures
import uuid

import pytest

from harness.client import Client
from harness.waits import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("guards")]


def look(stack, user, **options):
    """(reply, its log line) of a profile."""
    request_id = f"cache-{uuid.uuid4().hex}"
    reply = stack.client().get(f"/api/users/{user.id}", headers={"X-Request-Id": request_id}, **options)
    return reply, next(line for line in stack.log_lines(request_id) if line["event"] == "request")


def entry(stack, user):
    """Key of a profile's entry; None where there is none."""
    return next(iter(stack.redis().scan_iter(match=f"cache:*:profile:{user.id}", count=1000)), None)


def test_a_profile_is_read_once_and_then_told_from_the_cache(private):
    user = private.user()
    reply, line = look(private, user, expect=200)
    assert line["dbCount"] == 1
    again, line = look(private, user, expect=200)
    assert line["dbCount"] == 0
    assert again.content == reply.content


def test_a_change_is_seen_at_once(private):
    user = private.user()
    look(private, user, expect=200)
    user.client.patch("/api/auth/me", {"name": "A New Name"}, expect=200)
    assert look(private, user, expect=200)[0].json["name"] == "A New Name"


def test_a_change_takes_the_version_that_builders_hold(private):
    """What a builder read before a change is not put after it: its version is gone."""
    user = private.user()
    look(private, user, expect=200)
    key, redis = entry(private, user), private.redis()
    version = redis.hget(key, "n")
    assert version
    user.client.patch("/api/auth/me", {"name": "Changed Meanwhile"}, expect=200)
    assert not redis.exists(key)
    look(private, user, expect=200)
    assert int(redis.hget(key, "n")) > int(version)


def test_one_builds_and_the_others_wait(private):
    user = private.user()
    before = private.metrics()["maxbooster_db_calls_total"]
    clients = [Client(private.url) for _ in range(12)]
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        replies = list(pool.map(lambda c: c.get(f"/api/users/{user.id}"), clients))
    assert {r.status for r in replies} == {200}
    assert private.metrics()["maxbooster_db_calls_total"] - before <= 3


def test_while_somebody_builds_the_others_are_told_the_old_value(private):
    user = private.user()
    fresh, _ = look(private, user, expect=200)
    key, redis = entry(private, user), private.redis()
    now_ms = redis.time()[0] * 1000
    redis.hset(key, mapping={"e": now_ms - 1000, "b": now_ms + 10000})  # its time is over, and somebody has the lease
    before = private.metrics()["maxbooster_cache_stale_total"]
    stale, line = look(private, user, expect=200)
    assert (stale.content, line["dbCount"]) == (fresh.content, 0)
    assert private.metrics()["maxbooster_cache_stale_total"] == before + 1


def test_the_number_of_keys_keeps_to_its_budget(private, tell):
    users = [private.user() for _ in range(40)]
    redis = private.redis()
    for key in redis.scan_iter(match="cache:*", count=1000):
        redis.delete(key)
    tell(CACHE_MAX_KEYS=40)  # 80 % of it are 32: 2 in each of 16 partitions
    before = private.metrics()["maxbooster_cache_evictions_total"]
    for user in users:
        private.client().get(f"/api/users/{user.id}", expect=200)
    sizes = [redis.zcard(f"cache:{{{n}}}") for n in range(16)]
    assert max(sizes) <= 2 and sum(sizes) <= 32, sizes
    assert len(list(redis.scan_iter(match="cache:*:profile:*", count=1000))) == sum(sizes)
    evicted = private.metrics()["maxbooster_cache_evictions_total"] - before
    assert evicted == len(users) - sum(sizes)


def test_without_the_database_a_stale_profile_is_told(private, tell):
    user, unknown = private.user(), private.user()
    tell(CACHE_PROFILE_TTL_MS=100)
    fresh, _ = look(private, user, expect=200)
    with private.stopped("postgres"):
        def told_stale():
            reply = private.client().get(f"/api/users/{user.id}", expect=(200, 503))
            told = private.metrics()["maxbooster_cache_outage_replies_total"]
            return reply.status == 200 and reply.content == fresh.content and told > 0
        wait_until(told_stale, 10, "a profile told though the database is away", every=0.2)
        private.client().get(f"/api/users/{unknown.id}", expect=503)
    private.wait_ready()


def test_the_leaders_lock_is_fenced_and_its_fence_grows_even_when_redis_forgets(private):
    redis = private.redis()
    wait_until(lambda: redis.get("lock:{scheduler}"), 10, "a leader")
    fence = int(redis.get("lock:{scheduler}:fence"))
    redis.delete("lock:{scheduler}", "lock:{scheduler}:fence")
    wait_until(lambda: redis.get("lock:{scheduler}:fence"), 10, "a leader again")
    assert int(redis.get("lock:{scheduler}:fence")) > fence
    ttl = redis.pttl("lock:{scheduler}")
    assert 0 < ttl <= 5000
