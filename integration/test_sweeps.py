"""The scheduler's sweeps while S3 stands still or goes away: what needs none goes on, in time."""
import contextlib
import os
import time

import pytest

from harness import fired, queuelab, s3lab
from harness.slowlink import SlowLink
from harness.waits import wait_until

CLOSED = 0
HOUR_S = 3600


@pytest.fixture(name="link")
def _link(gateway):
    """The way from the scheduler to S3."""
    with contextlib.closing(SlowLink(gateway.port)) as link:
        yield link
    gateway.thaw()


@pytest.fixture(name="s3")
def _s3(gateway):
    return gateway.client()


def scheduler_behind(lab, link, door, **settings):
    """A scheduler that sweeps each second and reaches S3 by the link."""
    return lab.scheduler(SWEEP_INTERVAL_S="1", UPLOAD_TTL_S="60", TEMP_TTL_S="60", METRICS_PORT=str(door),
                         S3_ENDPOINT=f"http://127.0.0.1:{link.port}", AWS_ACCESS_KEY_ID=s3lab.ACCESS_KEY,
                         AWS_SECRET_ACCESS_KEY=s3lab.SECRET_KEY, S3_BUCKET=s3lab.BUCKET, **settings)


def put_old(gateway, s3, keys):
    """Objects that are an hour old."""
    past = time.time() - HOUR_S
    for key in keys:
        s3.put_object(Bucket=s3lab.BUCKET, Key=key, Body=b"x")
        os.utime(gateway.folder / "data" / s3lab.BUCKET / key, (past, past))


def keys_at(s3):
    """What the bucket has."""
    return {o["Key"] for o in s3.list_objects_v2(Bucket=s3lab.BUCKET).get("Contents", [])}


def given_up(scheduler):
    """Its lines of rounds, or rests of rounds, without S3."""
    return [line for line in scheduler.lines if "no sweep of objects" in line.get("message", "")]


def failed(scheduler):
    """Sweeps that began and failed, in order."""
    return [line["sweep"] for line in scheduler.lines
            if line["event"] == "scheduler.sweep" and "code" in line and "sweep" in line]


def test_s3_that_stands_still_costs_one_short_look_a_round_and_is_left_alone(lab, gateway, link, s3):
    user = queuelab.user_id()
    for shard in range(queuelab.SHARDS):
        file = wait_until(lambda s=shard: (f := queuelab.owned_id()) and queuelab.shard_of(f) == s and f, 10, "an id")
        key = f"audio/{user}/{file}.mp3"
        put_old(gateway, s3, [key])
        lab.postgres.sql(shard, "INSERT INTO audio_files (id, user_id, key, status, file_name, content_type, "
                         "size_bytes, updated_at) VALUES (%s, %s, %s, 'pending', 'a', 'b', 1, "
                         "now() - interval '2 min')", file, user, key)
        lab.postgres.sql(shard, "INSERT INTO password_resets (token_hash, user_id, expires_at) "
                         "VALUES (repeat('a', 64), %s, now() - interval '1 s')", user)
    gateway.freeze()
    door = queuelab.free_port()
    scheduler = scheduler_behind(lab, link, door, S3_TIMEOUT_MS="20000", S3_RETRIES="3",
                                 DEPEND_BREAKER_FAILURES="2", DEPEND_BREAKER_OPEN_MS="2500")
    wait_until(lambda: any("left alone" in line["message"] for line in given_up(scheduler)), 30,
               "a round in which S3 is not even looked for")
    wait_until(lambda: fired.page(door)['maxbooster_dependency_breaker_state{dependency="s3"}'] != CLOSED, 5,
               "the breaker to be told")
    assert link.n_accepted <= len(given_up(scheduler)) + 1
    assert not failed(scheduler)
    told = fired.page(door)
    assert told['maxbooster_sweep_rounds_total{sweep="files",outcome="failed"}'] >= queuelab.SHARDS
    assert told['maxbooster_sweep_swept_total{sweep="password_resets"}'] == queuelab.SHARDS
    assert [lab.postgres.sql(shard, "SELECT status FROM audio_files") for shard in range(queuelab.SHARDS)] == [
        [("pending",)]] * queuelab.SHARDS
    gateway.thaw()
    wait_until(lambda: not keys_at(s3), 20, "the objects to be swept")
    wait_until(lambda: not any(lab.postgres.sql(shard, "SELECT FROM audio_files")
                               for shard in range(queuelab.SHARDS)), 20, "their rows to be swept")
    assert fired.page(door)['maxbooster_dependency_breaker_state{dependency="s3"}'] == CLOSED


def test_s3_that_goes_away_in_a_sweep_ends_the_round_for_all_that_need_it(lab, gateway, link, s3):
    keys = {f"temp/job/{n:03}" for n in range(200)}
    put_old(gateway, s3, keys)
    link.delay_s = 0.02  # 200 of them take some seconds
    scheduler = scheduler_behind(lab, link, queuelab.free_port())
    wait_until(lambda: keys_at(s3) < keys, 20, "the sweep to begin")
    link.down()
    wait_until(lambda: len(given_up(scheduler)) >= 3, 20, "three rounds without S3")
    assert failed(scheduler) == ["temp"]
    assert keys_at(s3), "the sweep was over before S3 went away"
    link.delay_s = 0
    link.up()
    wait_until(lambda: not keys_at(s3), 20, "the rest to be swept")
