"""Jobs by the clock: each tick one job, whoever dies; missed ticks by their policy.

Needs no stack, as test_queue.py."""
import collections
import datetime
import signal

import pytest

from harness import queuelab
from harness.waits import wait_until


def ticks(lab, name):
    """The ticks for which there are jobs, each with how many."""
    rows = lab.postgres.sql(0, "SELECT payload->>'tick' FROM jobs WHERE payload->>'cron' = %s",
                            name)
    return collections.Counter(row[0] for row in rows)


def seconds_between(counted):
    times = sorted(datetime.datetime.fromisoformat(t.replace("Z", "+00:00")) for t in counted)
    return [(b - a).total_seconds() for a, b in zip(times, times[1:])]


def test_each_tick_has_one_job_though_leaders_are_killed(lab):
    schedulers = [lab.scheduler(), lab.scheduler()]
    lab.ctl("cron", "set", "fast", "email-send", "* * * * * *", "UTC", "all", '{"a":1}')
    wait_until(lambda: len(ticks(lab, "fast")) >= 2, 20, "two ticks")
    for _ in range(3):
        schedulers.pop(0).kill()
        schedulers.append(lab.scheduler())
        seen = len(ticks(lab, "fast"))
        wait_until(lambda n=seen: len(ticks(lab, "fast")) >= n + 2, 30, "two more ticks")
    counted = ticks(lab, "fast")
    assert set(counted.values()) == {1}
    assert set(seconds_between(counted)) == {1.0}, "no tick is lost"
    assert lab.postgres.sql(0, "SELECT DISTINCT payload->>'a' FROM jobs") == [("1",)]


def test_a_leader_that_stood_still_and_was_followed_makes_no_tick(lab):
    old = lab.scheduler()
    lab.ctl("cron", "set", "fast", "email-send", "* * * * * *", "UTC", "all")
    wait_until(lambda: ticks(lab, "fast"), 20, "a tick")
    old.signal(signal.SIGSTOP)
    lab.scheduler()
    fence = lambda: lab.postgres.sql(0, "SELECT fence FROM scheduler_fence")  # noqa: E731
    before = fence()
    wait_until(lambda: fence() > before, 20, "another leads")
    seen = len(ticks(lab, "fast"))
    old.signal(signal.SIGCONT)
    wait_until(lambda: len(ticks(lab, "fast")) >= seen + 3, 20, "three more ticks")
    assert set(ticks(lab, "fast").values()) == {1}


@pytest.mark.parametrize("policy,jobs", [("none", 0), ("one", 1), ("all", 3)])
def test_missed_ticks_make_jobs_by_their_policy(lab, policy, jobs):
    lab.ctl("cron", "set", "daily", "email-send", "30 3 * * *", "Europe/Berlin", policy)
    lab.postgres.sql(0, "UPDATE crons SET next_at = date_trunc('day', now()) - interval '2 days' - "
                     "interval '1 h'")
    lab.scheduler()

    def has_moved_on():
        return lab.postgres.sql(0, "SELECT next_at > now() FROM crons") == [(True,)]
    wait_until(has_moved_on, 20, "the schedule to move on")
    # One missed tick stands at the time that was set, two follow at 3:30; today's may be due too.
    made = sum(ticks(lab, "daily").values())
    assert made == jobs or (policy == "all" and made == jobs + 1)
    assert lab.postgres.sql(0, "SELECT to_char(next_at AT TIME ZONE 'Europe/Berlin', 'HH24:MI') "
                            "FROM crons") == [("03:30",)]


def test_a_schedule_can_be_paused_and_dropped(lab):
    lab.scheduler()
    lab.ctl("cron", "set", "fast", "email-send", "* * * * * *")
    wait_until(lambda: ticks(lab, "fast"), 20, "a tick")
    lab.ctl("cron", "pause", "fast")
    assert "fast (paused)" in lab.ctl("cron", "list")
    lab.ctl("cron", "resume", "fast")
    seen = len(ticks(lab, "fast"))
    wait_until(lambda: len(ticks(lab, "fast")) > seen, 20, "another tick")
    lab.ctl("cron", "drop", "fast")
    assert lab.ctl("cron", "list") == ""


@pytest.mark.parametrize("words", [("x", "no-type", "* * * * *"), ("x", "email-send", "* * *"),
                                   ("x", "email-send", "* * * * *", "Mars/Olympus"),
                                   ("x", "email-send", "* * * * *", "UTC", "some"),
                                   ("x", "email-send", "* * * * *", "UTC", "one", "[]")])
def test_a_schedule_that_makes_no_sense_is_refused(lab, words):
    with pytest.raises(queuelab.subprocess.CalledProcessError):
        lab.ctl("cron", "set", *words)
