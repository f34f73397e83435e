"""What can be asked of a promised job: delay, keys, flows, log lines, events, lists of the operator.

Needs no stack, as test_queue.py."""
import json
import threading
import time

import pytest

from harness import fired, queuelab
from harness.waits import wait_until


@pytest.fixture(name="promiser")
def _promiser(lab):
    """A driver that knows the databases."""
    driver = queuelab.Driver(lab.driver_program, lab.redis.url, **lab.env())
    yield driver
    driver.close()


def mail_to(address):
    return json.dumps({"template": "welcome", "email": address, "name": "Ann"}, separators=(",", ":"))


def promise(driver, user, address, delay_ms=0, dedup="always", key="-", dedup_ms=0):
    return driver("promise", "email-send", user, mail_to(address), delay_ms, dedup, key, dedup_ms)


def test_a_job_with_a_delay_begins_when_it_is_due_and_not_before(lab, promiser):
    lab.worker()
    job = promise(promiser, queuelab.user_id(), "later@example.org", delay_ms=700)["job"]
    lab.ends(job)
    shard = queuelab.shard_of(job)
    assert lab.postgres.sql(shard, "SELECT started_at >= run_at, run_at - created_at FROM jobs "
                            "WHERE id = %s", job)[0][0]
    assert lab.postgres.job(job).attempts == 1


def test_a_queue_that_runs_ahead_of_the_rows_clock_costs_no_attempt(lab, promiser):
    lab.worker()
    job = promise(promiser, queuelab.user_id(), "ahead@example.org", delay_ms=800)["job"]
    lab.redis.client.zadd("{email}:delayed", {job: 1})
    row = lab.ends(job)
    assert (row.attempts, row.stalled, row.fence) == (1, 0, 1)


def test_until_it_is_done_a_key_stands_for_one_job(lab, promiser):
    user, other = queuelab.user_id(), queuelab.user_id()
    first = promise(promiser, user, "once@example.org", dedup="until-done", key="k")
    again = promise(promiser, user, "once@example.org", dedup="until-done", key="k")
    assert first["new"] and not again["new"] and again["job"] == first["job"]
    assert promise(promiser, other, "o@example.org", dedup="until-done", key="k")["new"]
    assert promise(promiser, user, "k2@example.org", dedup="until-done", key="k2")["new"]
    lab.worker()
    lab.ends(first["job"])
    assert promise(promiser, user, "once@example.org", dedup="until-done", key="k")["new"]


def test_a_throttled_key_waits_for_its_time_though_the_job_is_done(lab, promiser):
    user = queuelab.user_id()
    lab.worker()
    first = promise(promiser, user, "t@example.org", dedup="throttle", key="k", dedup_ms=60000)
    lab.ends(first["job"])
    assert not promise(promiser, user, "t@example.org", dedup="throttle", key="k",
                       dedup_ms=60000)["new"]
    lab.postgres.sql(queuelab.shard_of(first["job"]), "UPDATE jobs SET created_at = created_at - "
                     "interval '1 min' WHERE id = %s", first["job"])
    assert promise(promiser, user, "t@example.org", dedup="throttle", key="k",
                   dedup_ms=60000)["new"]


def test_a_debounced_job_is_pushed_back_and_does_the_newest(lab, promiser):
    user = queuelab.user_id()
    first = promise(promiser, user, "old@example.org", dedup="debounce", key="k", dedup_ms=1500)
    row = "SELECT run_at FROM jobs WHERE id = %s"
    shard = queuelab.shard_of(first["job"])
    due = lab.postgres.sql(shard, row, first["job"])
    lab.worker()
    again = promise(promiser, user, "new@example.org", dedup="debounce", key="k", dedup_ms=1500)
    assert again["job"] == first["job"] and not again["new"]
    assert lab.postgres.sql(shard, row, first["job"]) > due
    assert lab.ends(first["job"]).attempts == 1
    assert lab.mail.messages[-1][0] == "new@example.org"
    assert lab.mail.arrived["old@example.org"] == 0


def test_many_at_once_with_one_key_make_one_job(lab):
    user, answers = queuelab.user_id(), []
    drivers = [queuelab.Driver(lab.driver_program, lab.redis.url, **lab.env()) for _ in range(4)]

    def ask(driver):
        for n in range(25):
            answers.append((n, promise(driver, user, "race@example.org", dedup="throttle",
                                       key=f"k{n}", dedup_ms=600000)))
    threads = [threading.Thread(target=ask, args=(driver,)) for driver in drivers]
    for thread in threads:
        thread.start()
    lab.worker(WORKER_THREADS="4")
    for thread in threads:
        thread.join()
    for n in range(25):
        mine = [answer for number, answer in answers if number == n]
        assert len({answer["job"] for answer in mine}) == 1
        assert sum(answer["new"] for answer in mine) == 1
    for driver in drivers:
        driver.close()


def flow(driver, user, address, child_address, count):
    return driver("flow", "email-send", user, mail_to(address), "email-send",
                  mail_to(child_address), count)["job"]


def test_a_parent_begins_when_the_last_of_its_children_is_done(lab, promiser):
    lab.scheduler()
    lab.worker()
    job = flow(promiser, queuelab.user_id(), "parent@example.org", "hold-c@example.org", 3)
    wait_until(lambda: lab.mail.arrived["hold-c@example.org"] >= 1, 20, "a child at work")
    assert lab.postgres.job(job).status == "queued"
    lab.mail.gate.set()
    assert lab.ends(job).attempts == 1
    assert [to for to, _ in lab.mail.messages[-4:]] == ["hold-c@example.org"] * 3 + [
        "parent@example.org"]


def test_a_child_that_fails_fails_its_parent(lab, promiser):
    lab.worker()
    job = flow(promiser, queuelab.user_id(), "failing@example.org", "refuse-c@example.org", 2)
    assert lab.ends(job, "failed").error["code"] == "child_failed"
    assert lab.mail.arrived["failing@example.org"] == 0


def test_a_cancelled_parent_takes_its_children_along(lab, promiser):
    user = queuelab.user_id()
    job = flow(promiser, user, "p@example.org", "c@example.org", 3)
    shard = queuelab.shard_of(job)
    cancel = queuelab.query("jobs_cancel").replace("type <> 'email-send' AND ", "")
    lab.postgres.prepared(shard, cancel, user, job)
    rows = lab.postgres.sql(shard, "SELECT status FROM jobs WHERE id = %s OR parent_id = %s", job,
                            job)
    assert rows == [("cancelled",)] * 4
    lab.worker()
    wait_until(lambda: lab.redis.known() == 0, 20, "the queue forgets them")
    assert lab.mail.arrived["c@example.org"] == 0


def test_many_jobs_are_promised_in_one_statement(lab, promiser):
    user = queuelab.user_id()
    job = promiser("bulk", "email-send", user, mail_to("b@example.org"), 250, 0)["job"]
    assert lab.postgres.sql(queuelab.shard_of(job), "SELECT count(*) FROM jobs") == [(250,)]
    assert lab.redis.known() == 250


def test_a_push_that_waits_for_replicas_it_has_not_is_no_failure(lab, promiser):
    begun = time.monotonic()
    job = promiser("bulk", "email-send", queuelab.user_id(), mail_to("w@example.org"), 1, 1)["job"]
    assert time.monotonic() - begun >= 0.09, "it waited"
    lab.worker()
    lab.ends(job)


def test_listeners_are_told_what_becomes_of_a_users_job(lab, promiser):
    user = queuelab.user_id()
    told = []
    listener = lab.redis.client.pubsub()
    listener.execute_command("SSUBSCRIBE", f"jobs:{{{user}}}")
    lab.worker()
    job = promise(promiser, user, "told@example.org")["job"]
    lab.ends(job)

    def is_told():
        message = listener.parse_response(block=False, timeout=0.1)
        if message and message[0] == b"smessage":
            told.append(json.loads(message[2]))
        return [m["status"] for m in told][-1:] == ["completed"]
    wait_until(is_told, 10, "the message that it is completed")
    assert [m["status"] for m in told] == ["processing", "completed"]
    assert told[-1] == {"jobId": job, "type": "email-send", "status": "completed", "progress": 100}
    listener.close()


def test_an_address_whose_server_knows_no_such_mailbox_gets_no_more_mail(lab, promiser):
    lab.worker()
    job = promise(promiser, queuelab.user_id(), "nobody-a@example.org")["job"]
    assert lab.ends(job, "failed").attempts == 1
    shown = lab.ctl("queue", "show", job)
    assert "knows no such mailbox" in shown and "failed" in shown
    assert "nobody-a@example.org: smtp: refused with 550" in lab.ctl("mail", "suppressed")
    again = promise(promiser, queuelab.user_id(), "Nobody-A@example.org")["job"]
    assert lab.ends(again).result == {"suppressed": True}
    assert lab.mail.refused["nobody-a@example.org"] == 1
    lab.ctl("mail", "allow", "nobody-a@example.org")
    third = promise(promiser, queuelab.user_id(), "nobody-a@example.org")["job"]
    lab.ends(third, "failed")
    assert lab.mail.refused["nobody-a@example.org"] == 2


def test_dead_jobs_are_dropped_one_by_one_or_by_type(lab):
    lab.worker()
    jobs = [lab.row({"template": "no", "email": "x@example.org"}) for _ in range(3)]
    for job in jobs:
        lab.ends(job, "failed")
    lab.ctl("queue", "drop", jobs[0])
    assert jobs[0] not in lab.ctl("queue", "dead")
    assert lab.ctl("queue", "drop", "email-send").count("forgotten") == 2
    assert lab.ctl("queue", "dead") == ""


def test_what_is_no_job_wedges_nothing(lab):
    client = lab.redis.client
    client.hset("{email}:jobs", mapping={"garbage": "x", "short": "email-send|u|r|"})
    client.hset("{email}:meta", "h:email-send", 1)
    client.zadd("{email}:ready:email-send", {"garbage": 0, "short": 0, "unknown": 0})
    client.hset("{email}:jobs", "d", "\x00\xff")
    client.zadd("{email}:delayed", {"d": 1})
    client.hset("{email}:jobs", "l", "")
    client.zadd("{email}:leases", {"l": 1})
    lab.scheduler()
    lab.worker()
    lab.ends(lab.welcome("good@example.org"))
    wait_until(lambda: lab.redis.known() == 0, 10, "nothing of it is left")


def test_jobs_are_forgotten_when_their_time_is_over(lab):
    old = {status: queuelab.owned_id() for status in ("completed", "failed", "cancelled")}
    for status, job in old.items():
        lab.postgres.sql(queuelab.shard_of(job), "INSERT INTO jobs (id, type, payload, status, "
                         "finished_at) VALUES (%s, 'email-send', '{}', %s, now() - "
                         "interval '2 min')", job, status)
        lab.postgres.sql(queuelab.shard_of(job), "INSERT INTO job_logs (job_id, fence, n, line) "
                         "VALUES (%s, 1, 1, 'x')", job)
    young = lab.welcome("young@example.org")
    lab.scheduler(SWEEP_INTERVAL_S="1", JOB_RETENTION_S="60", JOB_DEAD_RETENTION_S="600")

    def left(table, column):
        return {row[0] for shard in range(queuelab.SHARDS)
                for row in lab.postgres.sql(shard, f"SELECT {column}::text FROM {table}")}
    wait_until(lambda: left("jobs", "id") == {old["failed"], young}, 15, "the sweep")
    assert left("job_logs", "job_id") == {old["failed"]}


def test_a_pool_takes_its_own_type_and_as_many_as_it_has_threads(lab):
    worker = lab.worker("email-send=1")
    first = lab.welcome("hold-1@example.org")
    wait_until(lambda: lab.mail.arrived["hold-1@example.org"], 30, "the first")
    second = lab.welcome("hold-2@example.org")
    wait_until(lambda: lab.driver("stats", "email")["known"] == 2, 10, "both to be known")
    assert lab.driver("stats", "email")["leased"] == 1
    lab.mail.gate.set()
    lab.ends(first)
    lab.ends(second)
    assert worker.stop() == 0


def test_partitions_share_the_work_and_lose_none(lab):
    settings = {"QUEUE_PARTITIONS": "3"}
    driver = queuelab.Driver(lab.driver_program, lab.redis.url, **lab.env(**settings))
    jobs = [promise(driver, queuelab.user_id(), f"p{n}@example.org")["job"] for n in range(30)]
    assert {lab.redis.client.hlen(key) > 0 for key in
            ("{email}:jobs", "{email:1}:jobs", "{email:2}:jobs")} == {True}
    assert driver("stats", "email")["known"] == 30
    lab.scheduler(**settings)
    lab.worker("email=2", **settings)
    for job in jobs:
        assert lab.ends(job).attempts == 1
    wait_until(lambda: driver("stats", "email")["known"] == 0, 10, "all is forgotten")
    driver.close()

def test_workers_and_schedulers_tell_their_figures(lab):
    ports = [queuelab.free_port(), queuelab.free_port()]
    worker = lab.worker(METRICS_PORT=str(ports[0]))
    lab.scheduler(METRICS_PORT=str(ports[1]), SWEEP_INTERVAL_S="1")
    held = lab.welcome("hold-m@example.org")
    dead = lab.row({"template": "no", "email": "m@example.org"})
    lab.ends(dead, "failed")
    wait_until(lambda: lab.mail.arrived["hold-m@example.org"], 20, "a job at work")
    later = lab.row({"template": "welcome", "email": "m2@example.org"}, push=False)
    lab.driver.push("email-send", None, 600000, later)
    told = fired.page(ports[0])
    assert told['maxbooster_job_attempts_total{type="email-send",ending="failed"}'] == 1
    assert told['maxbooster_job_duration_seconds_count{type="email-send"}'] == 1
    assert told["maxbooster_worker_busy_threads"] == 1
    assert told["maxbooster_worker_threads"] == 2

    def figures():
        found = fired.page(ports[1])
        return all(found.get(name) == 1 for name in (  # they are some moments old
            'maxbooster_job_running{type="email-send"}', "maxbooster_scheduler_leading",
            'maxbooster_queue_work{queue="email"}', 'maxbooster_job_dead{type="email-send"}',
            'maxbooster_queue_jobs{queue="email",state="delayed"}'))
    wait_until(figures, 20, "the leader's figures")
    wait_until(lambda: fired.page(ports[1]).get(
        'maxbooster_sweep_rounds_total{sweep="jobs",outcome="good"}', 0) > 0, 20, "a sweep")
    worker.kill()
    wait_until(lambda: fired.page(ports[1])["maxbooster_scheduler_recovered_total"] == 1, 20, "the lease to be found")
    lab.ctl("queue", "pause", "email")
    wait_until(lambda: fired.page(ports[1])['maxbooster_queue_paused{queue="email"}'] == 1, 20, "the pause to be told")
    lab.ctl("queue", "resume", "email")
    lab.mail.gate.set()
    lab.worker()
    lab.ends(held)
    lab.ctl("cron", "set", "fast", "email-send", "* * * * * *", "UTC", "all")
    wait_until(lambda: fired.page(ports[1])["maxbooster_scheduler_cron_jobs_total"] > 0, 20, "a tick to be told")
    lab.ctl("cron", "drop", "fast")
