"""The queue's scripts against a real Redis, and workers and schedulers against their failures.

Needs no stack: the servers are private. Jobs are mails, since a mail server can hold one for as
long as a test likes."""
import hashlib
import os
import random
import re
import signal
import time

import pytest

from harness import queuelab, s3lab
from harness.waits import wait_until


@pytest.fixture(scope="module", name="redis_server")
def _redis_server(tmp_path_factory):
    server = queuelab.Redis(tmp_path_factory.mktemp("queue") / "redis")
    yield server
    server.kill()


@pytest.fixture(scope="module", name="driver_program")
def _driver_program():
    return queuelab.build("loadtest/queue_driver")[0]


@pytest.fixture(name="driver")
def _driver(redis_server, driver_program):
    redis_server.client.flushall()
    driver = queuelab.Driver(driver_program, redis_server.url, JOB_LEASE_MS=1000)
    yield driver
    driver.close()


@pytest.fixture(name="wide")
def _wide(redis_server, driver_program):
    """A driver for which no type is ever at its limit."""
    redis_server.client.flushall()
    driver = queuelab.Driver(driver_program, redis_server.url, JOB_AUDIO_CONVERT_CONCURRENCY=10000,
                             JOB_AUDIO_ANALYSE_CONCURRENCY=10000)
    yield driver
    driver.close()


def balanced(driver, queue):
    """Every job that the queue knows is in exactly one place, and what runs is counted."""
    stats = driver("stats", queue)
    return (stats["known"] == stats["ready"] + stats["delayed"] + stats["leased"]
            and stats["running"] == stats["leased"])


# --- order ---------------------------------------------------------------------------------------

def test_a_job_is_given_out_once_however_often_it_is_pushed(driver):
    job = queuelab.owned_id()
    for _ in range(3):
        driver.push("audio-convert", job=job)
    first = driver.fetch("audio", 10)
    assert [lease["job"] for lease in first] == [job]
    driver.push("audio-convert", job=job)
    assert driver.fetch("audio", 10) == []


def test_one_artists_thousand_jobs_delay_anothers_one_job_by_one_job(wide):
    many, one = queuelab.user_id(), queuelab.user_id()
    for _ in range(1000):
        wide.push("audio-convert", many)
    assert len(wide.fetch("audio", 50)) == 50
    late = wide.push("audio-convert", one)
    order = [lease["job"] for lease in wide.fetch("audio", 3)]
    assert late in order[:2]


def test_artists_share_evenly_whatever_they_have_pushed(wide):
    backlogs = [20, 40, 80, 160, 320]
    users = {queuelab.user_id(): count for count in backlogs}
    for user, count in users.items():
        for _ in range(count):
            wide.push("audio-convert", user)
    served = {user: 0 for user in users}
    for _ in range(100):
        served[wide.fetch("audio", 1)[0]["user"]] += 1
    shares = list(served.values())
    jain = sum(shares) ** 2 / (len(shares) * sum(share ** 2 for share in shares))
    assert jain >= 0.99, served


def test_an_artist_who_comes_late_is_not_owed_the_past(wide):
    early, late = queuelab.user_id(), queuelab.user_id()
    for _ in range(200):
        wide.push("audio-convert", early)
    wide.fetch("audio", 100)
    for _ in range(50):
        wide.push("audio-convert", late)
    served = [lease["user"] for lease in wide.fetch("audio", 40)]
    assert 18 <= served.count(late) <= 22


def test_types_of_higher_priority_get_twice_the_turns_and_none_starves(wide):
    user = queuelab.user_id()
    for _ in range(90):
        wide.push("audio-convert", user)
        wide.push("audio-analyse", user)
    served = [lease["type"] for lease in wide.fetch("audio", 60)]
    assert 38 <= served.count("audio-convert") <= 42


def test_a_type_at_its_limit_holds_up_no_other(redis_server, driver_program):
    redis_server.client.flushall()
    driver = queuelab.Driver(driver_program, redis_server.url, JOB_AUDIO_CONVERT_CONCURRENCY=2)
    user = queuelab.user_id()
    for _ in range(5):
        driver.push("audio-convert", user)
    driver.push("audio-waveform", user)
    leases = driver.fetch("audio", 10)
    assert sorted(lease["type"] for lease in leases) == ["audio-convert"] * 2 + ["audio-waveform"]
    assert driver.fetch("audio", 10) == []
    driver.finish(next(lease for lease in leases if lease["type"] == "audio-convert"))
    assert len(driver.fetch("audio", 10)) == 1
    assert balanced(driver, "audio")
    driver.close()


def test_a_worker_without_code_for_a_type_leaves_it_to_others(driver):
    job = driver.push("audio-mix")
    assert driver.fetch("audio", 10, kind="audio-convert") == []
    assert [lease["job"] for lease in driver.fetch("audio", 10, kind="audio-mix")] == [job]


# --- time ----------------------------------------------------------------------------------------

def test_a_delayed_job_is_given_out_when_it_is_due_without_a_scheduler(driver):
    job = driver.push("audio-convert", delay_ms=300)
    got = driver("fetch", "audio", "w", 1, "*")
    assert got["leases"] == [] and 0 < got["nextDueMs"] <= 300
    assert wait_until(lambda: driver.fetch("audio"), 5, "the job is due")[0]["job"] == job


def test_a_sleeper_wakes_with_the_push(driver, redis_server, driver_program):
    other = queuelab.Driver(driver_program, redis_server.url)
    assert driver("wait", "audio", 200)["waitedUs"] >= 190000
    other.push("audio-convert")
    assert driver("wait", "audio", 5000)["waitedUs"] < 1000000
    other.close()


def test_a_lease_that_ends_gives_the_job_to_another_and_nothing_to_the_first(driver):
    job = driver.push("audio-convert")
    old = driver.fetch("audio")[0]
    new = wait_until(lambda: driver.fetch("audio"), 5, "the lease ends")[0]
    assert new["job"] == job and new["token"] != old["token"]
    driver.finish(old)
    assert driver("stats", "audio")["leased"] == 1
    driver.finish(new)
    assert driver("stats", "audio")["known"] == 0
    assert balanced(driver, "audio")


def beat(driver, lease, epoch):
    """One heartbeat of a lease."""
    return driver("extend", lease["type"], lease["job"], lease["user"], lease["token"],
                  epoch)["beat"]


def test_heartbeats_keep_a_lease(driver):
    driver.push("audio-convert")
    got = driver("fetch", "audio", "w", 1, "*")
    lease, beats = got["leases"][0], 0

    def is_long():
        nonlocal beats
        assert beat(driver, lease, got["epoch"]) == "ok"
        assert driver.fetch("audio") == []
        beats += 1
        return beats >= 15
    wait_until(is_long, 10, "one and a half lease times are over", every=0.1)


def test_a_late_holder_gets_its_lease_back_while_nobody_else_has_it(driver, redis_server):
    driver.push("audio-convert")
    got = driver("fetch", "audio", "w", 1, "*")
    wait_until(lambda: driver("fetch", "audio", "scheduler", 0, "*")["recovered"], 5, "recovery")
    assert beat(driver, got["leases"][0], got["epoch"]) == "ok"
    assert driver.fetch("audio") == []
    redis_server.client.zadd("{audio}:leases", {got["leases"][0]["job"]: 1})
    other = driver.fetch("audio")[0]
    assert beat(driver, got["leases"][0], got["epoch"]) == "lost"
    assert beat(driver, other, got["epoch"]) == "ok"
    assert balanced(driver, "audio")


# --- ends ----------------------------------------------------------------------------------------

def test_a_released_job_comes_first_again(wide):
    user = queuelab.user_id()
    for _ in range(5):
        wide.push("audio-convert", user)
    first = wide.fetch("audio")[0]
    wide.finish(first, "release")
    assert wide.fetch("audio")[0]["job"] == first["job"]


def test_a_job_to_be_tried_again_waits_its_delay(driver):
    job = driver.push("audio-convert")
    driver.finish(driver.fetch("audio")[0], "retry", 200)
    assert driver.fetch("audio") == []
    assert driver("stats", "audio")["delayed"] == 1
    assert wait_until(lambda: driver.fetch("audio"), 5, "the delay ends")[0]["job"] == job


def test_cancelling_forgets_a_waiting_job_and_tells_the_holder_of_a_running_one(driver):
    ready, delayed = driver.push("audio-convert"), driver.push("audio-convert", delay_ms=60000)
    driver("cancel", "audio-convert", ready)
    driver("cancel", "audio-convert", delayed)
    driver("cancel", "audio-convert", queuelab.owned_id())
    assert driver("stats", "audio")["known"] == 0
    driver.push("audio-convert")
    got = driver("fetch", "audio", "w", 1, "*")
    lease = got["leases"][0]
    driver("cancel", "audio-convert", lease["job"])
    assert driver("stops", "other", 1)["token"] == ""
    assert driver("stops", "w", 1000)["token"] == lease["token"], "without a heartbeat"
    assert driver("stops", "w", 1)["token"] == "", "told once"
    assert beat(driver, lease, got["epoch"]) == "cancelled"
    driver.finish(lease, "retry", 0)
    assert driver("stats", "audio")["known"] == 0
    assert balanced(driver, "audio")


def test_a_paused_queue_gives_out_nothing_and_keeps_everything(driver):
    job = driver.push("audio-convert")
    driver("pause", "audio")
    assert driver.fetch("audio") == []
    driver("resume", "audio")
    assert driver.fetch("audio")[0]["job"] == job


# --- Redis loses ---------------------------------------------------------------------------------

def test_lost_scripts_are_loaded_again(driver, redis_server):
    driver.push("audio-convert")
    redis_server.client.script_flush()
    assert len(driver.fetch("audio")) == 1


def test_running_work_is_entered_anew_after_a_loss_and_given_to_nobody_else(driver, redis_server):
    job = driver.push("audio-convert")
    got = driver("fetch", "audio", "w", 1, "*")
    redis_server.client.flushall()
    driver.push("audio-convert", job=job)
    lease = got["leases"][0]
    answer = driver("extend", lease["type"], job, lease["user"], lease["token"], got["epoch"])
    assert answer["beat"] == "ok" and answer["epoch"] != got["epoch"]
    assert driver.fetch("audio") == []
    driver.finish(lease)
    assert driver("stats", "audio")["known"] == 0
    assert beat(driver, lease, answer["epoch"]) == "lost"
    assert balanced(driver, "audio")


@pytest.mark.parametrize("seed", range(3))
def test_whatever_happens_every_job_is_in_one_place(driver, redis_server, seed):
    dice = random.Random(seed)
    users = [queuelab.user_id() for _ in range(4)]
    kinds = ["audio-convert", "audio-mix", "audio-waveform", "audio-analyse"]
    held, pushed = [], []
    for _ in range(400):
        step = dice.randrange(9)
        if step < 3:
            kind = dice.choice(kinds)
            pushed.append((kind, driver.push(kind, dice.choice(users),
                                             dice.choice([0, 0, 0, 5, 60000]))))
        elif step < 5:
            held += driver.fetch("audio", dice.randrange(1, 4))
        elif step < 7 and held:
            driver.finish(held.pop(dice.randrange(len(held))),
                          dice.choice(["done", "done", "retry", "release"]), dice.choice([0, 5]))
        elif step == 7 and pushed:
            driver("cancel", *dice.choice(pushed))
        elif held and dice.random() < 0.3:
            redis_server.client.zadd("{audio}:leases", {dice.choice(held)["job"]: 1}, xx=True)
        assert balanced(driver, "audio")


# --- workers and schedulers ----------------------------------------------------------------------

def test_a_row_whose_push_was_lost_is_found_and_done(lab):
    lab.scheduler()
    lab.worker()
    job = lab.welcome("ann@example.org", push=False)
    row = lab.ends(job)
    assert (row.attempts, row.stalled, row.fence, row.progress) == (1, 0, 1, 100)
    assert lab.times_sent(job) == 1
    to, message = lab.mail.messages[-1]
    assert to == "ann@example.org"
    assert message["Subject"] == "Welcome to Max Booster"
    assert "Hello Jörg <b>," in message.get_body(("plain",)).get_content()
    assert "Hello Jörg &lt;b&gt;," in message.get_body(("html",)).get_content()
    wait_until(lambda: lab.redis.known() == 0, 5, "the queue forgets the job")


def holding(lab, address):
    """Wait until the mail server holds a mail for the address."""
    wait_until(lambda: lab.mail.arrived[address], 20, f"the mail for {address} arrives")


def test_a_killed_workers_job_is_done_by_another_and_costs_no_attempt(lab):
    lab.scheduler()
    first = lab.worker()
    job = lab.welcome("hold-a@example.org")
    holding(lab, "hold-a@example.org")
    first.kill()
    second = lab.worker()
    wait_until(lambda: lab.mail.arrived["hold-a@example.org"] == 2, 20, "the second attempt")
    lab.mail.gate.set()
    row = lab.ends(job)
    assert (row.attempts, row.stalled, row.fence) == (1, 1, 2)
    assert second.jobs(job) == ["completed"]


def test_a_zombies_completion_changes_nothing(lab):
    lab.scheduler()
    zombie = lab.worker()
    job = lab.welcome("hold-z@example.org")
    holding(lab, "hold-z@example.org")
    zombie.signal(signal.SIGSTOP)
    heir = lab.worker()
    wait_until(lambda: lab.mail.arrived["hold-z@example.org"] == 2, 20, "the heir's attempt")
    lab.mail.gate.set()
    before = lab.ends(job)
    zombie.signal(signal.SIGCONT)
    assert wait_until(lambda: zombie.jobs(job), 20, "the zombie ends") == ["lost"]
    assert lab.postgres.job(job) == before and before.fence == 2
    assert heir.jobs(job) == ["completed"]


def test_sigterm_hands_a_running_job_back_without_counting(lab):
    lab.scheduler()
    first = lab.worker(JOB_EMAIL_SEND_TIMEOUT_S="3")
    job = lab.welcome("hold-t@example.org")
    holding(lab, "hold-t@example.org")
    assert first.stop() == 0
    assert first.jobs(job) == ["released"]
    row = lab.postgres.job(job)
    assert (row.status, row.attempts, row.stalled) == ("queued", 0, 0)
    lab.mail.gate.set()
    lab.worker()
    assert lab.ends(job).attempts == 1


def test_an_idle_worker_stops_at_once(lab):
    assert lab.worker().stop(5) == 0


@pytest.mark.parametrize("loss", ["kill", "lose_all"])
def test_every_promised_job_is_done_once_after_redis_is_lost(lab, loss):
    lab.scheduler()
    workers = [lab.worker(), lab.worker()]
    held = lab.welcome("hold-r@example.org")
    holding(lab, "hold-r@example.org")
    jobs = [lab.welcome(f"r{n}@example.org") for n in range(40)]
    getattr(lab.redis, loss)()
    jobs += [lab.welcome(f"s{n}@example.org") for n in range(10)]
    lab.redis.start()
    for job in jobs:
        assert lab.ends(job, seconds=40).attempts == 1
    lab.mail.gate.set()
    assert lab.ends(held).fence == 1, "its lease was entered anew"
    assert {lab.times_sent(job) for job in [*jobs, held]} == {1}
    assert sum(worker.jobs(held) == ["completed"] for worker in workers) == 1


def test_a_cancelled_job_stays_cancelled_though_its_worker_goes_on(lab):
    lab.scheduler()
    worker = lab.worker()
    job = lab.welcome("hold-c@example.org")
    holding(lab, "hold-c@example.org")
    lab.postgres.sql(queuelab.shard_of(job), "UPDATE jobs SET status = 'cancelled', "
                     "fence = fence + 1, finished_at = now() WHERE id = %s", job)
    lab.mail.gate.set()
    wait_until(lambda: worker.jobs(job) == ["lost"], 20, "the worker ends")
    assert lab.postgres.job(job).status == "cancelled"
    wait_until(lambda: lab.redis.known() == 0, 10, "the queue forgets the job")


def test_what_can_never_work_fails_at_once(lab):
    lab.scheduler()
    lab.worker()
    refused = lab.welcome("refuse-a@example.org")
    odd = [lab.row(payload) for payload in ([], "text", {}, {"template": "no", "email": "a@b"},
                                            {"template": "welcome", "email": "a\r\nBcc: b@c"})]
    good = lab.welcome("good@example.org")
    for job in [refused, *odd]:
        row = lab.ends(job, "failed")
        assert row.attempts == 1 and row.error["code"] == "validation_failed"
    lab.ends(good)


def test_a_passing_refusal_costs_no_attempt(lab):
    lab.scheduler()
    lab.worker()
    job = lab.welcome("later-a@example.org")
    row = lab.ends(job)
    assert (row.attempts, row.stalled) == (1, 2)


def test_a_job_that_is_interrupted_too_often_fails(lab):
    lab.scheduler()
    job = lab.welcome("hold-p@example.org")
    lab.postgres.sql(queuelab.shard_of(job), "UPDATE jobs SET status = 'processing', stalled = 3 "
                     "WHERE id = %s", job)
    lab.worker(STALLED_MAX="3")
    row = lab.ends(job, "failed")
    assert row.stalled == 4 and "interrupted" in row.error["detail"]


def test_a_worker_outlives_its_database(lab):
    lab.scheduler()
    worker = lab.worker()
    lab.postgres.stop()
    lab.postgres.start()
    job = lab.welcome("after@example.org")
    lab.ends(job)
    assert worker.stop() == 0


def test_work_that_is_done_waits_for_the_database_to_take_it(lab):
    lab.scheduler()
    lab.worker()
    job = lab.welcome("hold-d@example.org")
    holding(lab, "hold-d@example.org")
    lab.postgres.stop()
    lab.mail.gate.set()
    wait_until(lambda: lab.times_sent(job), 10, "the mail is sent")
    lab.postgres.start()
    assert lab.ends(job).fence == 1
    assert lab.times_sent(job) == 1


def test_only_one_scheduler_leads_and_another_takes_over(lab):
    first = lab.scheduler()
    leads = lambda s: any(line["event"] == "scheduler.lead" for line in s.lines)  # noqa: E731
    wait_until(lambda: leads(first), 10, "the first leads")
    second = lab.scheduler()
    wait_until(lambda: second.lines, 10, "the second runs")
    assert not leads(second)
    first.kill()
    wait_until(lambda: leads(second), 15, "the second leads")
    lab.worker()
    lab.ends(lab.welcome("led@example.org"))


def test_a_password_reset_mail_has_a_token_that_is_stored_as_a_hash(lab):
    user, address = queuelab.user_id(), "ann@example.org"
    user_shard = int(hashlib.sha256(user.encode()).hexdigest()[:8], 16) % queuelab.SHARDS
    place = hashlib.sha256(address.encode()).hexdigest()[:8]
    lab.postgres.sql(user_shard, "INSERT INTO users (id, email, name, password_hash) "
                     "VALUES (%s, %s, 'Ann', 'x')", user, address)
    lab.postgres.sql(int(place, 16) % queuelab.SHARDS, "INSERT INTO emails (email, user_id, active)"
                     " VALUES (%s, %s, true)", address, user)
    lab.scheduler()
    lab.worker()
    job = place + queuelab.owned_id()[8:]
    lab.row({"template": "password-reset", "email": address}, job=job)
    nobody = lab.row({"template": "password-reset", "email": "nobody@example.org"})
    lab.ends(job)
    lab.ends(nobody)
    assert lab.times_sent(nobody) == 0
    text = lab.mail.messages[-1][1].get_body(("plain",)).get_content()
    token = re.search(r"https://booster\.example\.org/reset-password\?token=(\S+)", text).group(1)
    stored = lab.postgres.sql(user_shard, "SELECT token_hash FROM password_resets")
    assert stored == [(hashlib.sha256(token.encode()).hexdigest(),)]


def test_a_failed_job_is_listed_and_can_be_tried_again(lab):
    lab.worker()
    job = lab.row({"template": "no", "email": "again@example.org"})
    lab.ends(job, "failed")
    assert f"{job} email-send attempts=1" in lab.ctl("queue", "dead")
    assert job in lab.ctl("queue", "dead", "email-send")
    assert job not in lab.ctl("queue", "dead", "audio-convert")
    lab.postgres.sql(queuelab.shard_of(job), "UPDATE jobs SET payload = payload || "
                     "'{\"template\": \"welcome\"}' WHERE id = %s", job)
    lab.ctl("queue", "retry", job)
    row = lab.ends(job)
    assert (row.attempts, row.error) == (1, None)
    assert job not in lab.ctl("queue", "dead")


def test_a_queue_is_drained_by_the_operator(lab):
    lab.worker()
    running = lab.welcome("hold-o@example.org")
    holding(lab, "hold-o@example.org")
    lab.mail.gate.set()
    assert "nothing of queue email runs" in lab.ctl("queue", "drain", "email")
    assert lab.postgres.job(running).status == "completed"
    waiting = lab.welcome("drained@example.org")
    assert "email (paused): 1 known" in lab.ctl("queue", "stats", "email")
    lab.ctl("queue", "resume", "email")
    lab.ends(waiting)


def test_a_pause_outlives_redis(lab):
    lab.ctl("queue", "pause", "email")
    job = lab.welcome("paused@example.org")
    lab.redis.client.flushall()
    lab.scheduler()
    wait_until(lambda: "email (paused): 1 known" in lab.ctl("queue", "stats", "email"), 20,
               "the lost job to be back in a paused queue")
    lab.worker()
    lab.ctl("queue", "resume", "email")
    lab.ends(job)


# --- sweeps --------------------------------------------------------------------------------------

def test_expired_rows_are_swept_and_others_stay(lab):
    user, other = queuelab.user_id(), queuelab.user_id()
    for shard in range(queuelab.SHARDS):
        lab.postgres.sql(shard, "INSERT INTO password_resets (token_hash, user_id, expires_at) "
                         "VALUES (repeat('a', 64), %s, now() - interval '1 s'), "
                         "(repeat('b', 64), %s, now() + interval '1 h')", user, other)
        lab.postgres.sql(shard, "INSERT INTO idempotency (user_id, key, fingerprint, status, body, "
                         "created_at) VALUES (%s, 'old', 'f', 200, '', now() - interval '25 h'), "
                         "(%s, 'new', 'f', 200, '', now() - interval '23 h')", user, user)
    lab.scheduler(SWEEP_INTERVAL_S="1")

    def left(shard):
        return (lab.postgres.sql(shard, "SELECT left(token_hash, 1) FROM password_resets"),
                lab.postgres.sql(shard, "SELECT key FROM idempotency"))
    for shard in range(queuelab.SHARDS):
        wait_until(lambda s=shard: left(s) == ([("b",)], [("new",)]), 15, "the sweeps")


def test_a_registration_that_died_is_finished_or_undone(lab):
    finished, undone = queuelab.user_id(), queuelab.user_id()
    shard = int(hashlib.sha256(finished.encode()).hexdigest()[:8], 16) % queuelab.SHARDS
    lab.postgres.sql(shard, "INSERT INTO users (id, email, name, password_hash) "
                     "VALUES (%s, 'f@example.org', 'F', 'x')", finished)
    lab.postgres.sql(0, "INSERT INTO emails (email, user_id, reserved_at) VALUES "
                     "('f@example.org', %s, now() - interval '3 min'), "
                     "('u@example.org', %s, now() - interval '3 min'), "
                     "('young@example.org', %s, now())", finished, undone, undone)
    lab.scheduler(SWEEP_INTERVAL_S="1")
    wait_until(lambda: lab.postgres.sql(0, "SELECT email, active FROM emails ORDER BY email") ==
               [("f@example.org", True), ("young@example.org", False)], 15, "the sweep")


def test_unwanted_objects_are_swept_and_wanted_ones_stay(lab, gateway):
    bucket = s3lab.BUCKET
    s3 = gateway.client()
    user = queuelab.user_id()
    files = {what: queuelab.owned_id(user) for what in ("verified", "pending", "deleted", "open")}
    for what, file in files.items():
        lab.postgres.sql(
            queuelab.shard_of(file), "INSERT INTO audio_files (id, user_id, key, status, "
            "file_name, content_type, size_bytes, updated_at, deleted_at) "
            "VALUES (%s, %s, %s, %s, 'a', 'b', 1, now() - interval '2 min', %s)",
            file, user, f"audio/{user}/{file}.mp3",
            "pending" if what in ("pending", "open") else "verified",
            "2026-01-01" if what == "deleted" else None)
        s3.put_object(Bucket=bucket, Key=f"audio/{user}/{file}.mp3", Body=b"x")
        s3.put_object(Bucket=bucket, Key=f"waveforms/{user}/{file}/w.dat", Body=b"x")
    uploads = {}
    for what, interval in (("open", "1 h"), ("stale", "-1 s")):
        key = f"audio/{user}/{files['open' if what == 'open' else 'pending']}.mp3"
        uploads[what] = s3.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
        file = files["open" if what == "open" else "pending"]
        lab.postgres.sql(
            queuelab.shard_of(file), "INSERT INTO uploads (id, user_id, file_id, key, "
            "s3_upload_id, content_type, file_name, size_bytes, part_bytes, expires_at) "
            "VALUES (%s, %s, %s, %s, %s, 'a', 'b', 1, 1, now() + %s::interval)",
            queuelab.owned_id(user), user, file, key, uploads[what], interval)
    for name in ("old", "new"):
        s3.put_object(Bucket=bucket, Key=f"temp/job/{name}", Body=b"x")
    orphan = s3.create_multipart_upload(Bucket=bucket, Key=f"audio/{user}/killed.flac")["UploadId"]
    past = time.time() - 3600
    os.utime(gateway.folder / "data" / bucket / "temp/job/old", (past, past))
    for folder in (gateway.folder / "data" / bucket).rglob(orphan):
        os.utime(folder, (past, past))
    lab.scheduler(SWEEP_INTERVAL_S="1", UPLOAD_TTL_S="60", TEMP_TTL_S="60",
                  S3_ENDPOINT=gateway.url, AWS_ACCESS_KEY_ID=s3lab.ACCESS_KEY,
                  AWS_SECRET_ACCESS_KEY=s3lab.SECRET_KEY, S3_BUCKET=bucket, S3_TIMEOUT_MS="5000")

    def state():
        keys = [o["Key"] for o in s3.list_objects_v2(Bucket=bucket).get("Contents", [])]
        opened = s3.list_multipart_uploads(Bucket=bucket).get("Uploads") or []
        rows = lab.postgres.sql(queuelab.shard_of(files["open"]), "SELECT id FROM audio_files")
        return (sorted(keys), sorted(u["UploadId"] for u in opened), sorted(r[0] for r in rows))
    kept = [files["verified"], files["open"]]
    expected = (sorted([f"audio/{user}/{file}.mp3" for file in kept] + ["temp/job/new"] +
                       [f"waveforms/{user}/{file}/w.dat" for file in kept]),
                [uploads["open"]], sorted(kept))
    wait_until(lambda: state() == expected, 20, f"only {expected} is left")
