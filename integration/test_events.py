"""Domain events as the API and the workers write them: the right ones, with the change and only with it."""
import re
import pathlib
import threading

import pytest

from harness import audio, bus, mail, tracks
from harness.client import patiently
from harness.waits import wait_until

ROOT = pathlib.Path(__file__).resolve().parent.parent
WITHIN_S = 30
# {type: members of its data}, from the page that lib/events.def generates.
TABLE = {m[1]: set(re.findall(r"`(\w+)`", m[2])) for m in re.finditer(
    r"^\| `([a-z_.]+)` \| \d+ \| (.*?) \|", (ROOT / "docs/events.md").read_text(), re.M)}


def told(stack, user_id, kind, count=1):
    """The user's events of a kind, once there are so many."""
    def found():
        events = [e for e in bus.events(stack.redis(), user_id) if e["type"] == kind]
        return events if len(events) >= count else None
    events = wait_until(found, WITHIN_S, f"{count} events {kind}")
    assert len(events) == count
    for event in events:
        assert set(event["data"]) == TABLE[kind], event
    return events


def kinds(stack, user_id):
    """Types of all of the user's events that are written, in order."""
    return [r[0] for r in stack.sql(stack.shard_of(user_id), "SELECT type FROM outbox WHERE user_id = "
                                    "%s ORDER BY seq", user_id)]


def test_an_account_and_its_changes_are_told(stack, user):
    user.client.patch("/api/auth/me", {"name": "Nina Two"}, expect=200)
    user.client.patch("/api/auth/me", {"name": "Nina Two"}, expect=200)  # no change, no event
    (registered,) = told(stack, user.id, "user.registered")
    assert registered["data"]["role"] == "artist" and registered["sequence"] == "1"
    (renamed,) = told(stack, user.id, "user.renamed")
    assert renamed["data"] == {"name": "Nina Two", "version": 2}
    assert renamed["sequence"] == "2" and renamed["subject"] == user.id


def test_new_passwords_are_told_without_them(stack, user, mailbox):
    patiently(lambda: user.client.post("/api/auth/password/change", {
        "currentPassword": user.password, "newPassword": "an anchor in the sand"}))
    stack.client().post("/api/auth/password/forgot", {"email": user.email}, expect=202)
    token = mail.reset_token_of(mailbox.wait_for(user.email, "password"))
    patiently(lambda: stack.client().post("/api/auth/password/reset", {
        "token": token, "password": "a lantern on the pier"}))
    events = told(stack, user.id, "user.password_changed", 2)
    assert [e["data"]["reason"] for e in events] == ["change", "reset"]
    everything = repr(bus.entries(stack.redis()))
    for secret in (user.password, "anchor in the sand", "lantern on the pier", token,
                   user.client.token, user.email):
        assert secret not in everything


def test_an_upload_its_analysis_and_its_end_are_told(stack, user):
    file = audio.upload(user.client, "a.mp3", tracks.short_mp3())
    audio.analysed(user.client, file["id"])
    user.client.patch(f"/api/audio/{file['id']}", {"fileName": "b.mp3"}, expect=200)
    user.client.delete(f"/api/audio/{file['id']}", expect=204)
    (verified,) = told(stack, user.id, "audio.verified")
    assert verified["data"]["fileId"] == file["id"] and verified["data"]["fileName"] == "a.mp3"
    assert verified["data"]["durationMs"] == file["durationMs"]
    (completed,) = told(stack, user.id, "job.completed")
    assert completed["data"]["type"] == "audio-analyse"
    (renamed,) = told(stack, user.id, "audio.renamed")
    assert renamed["data"]["fileName"] == "b.mp3"
    (deleted,) = told(stack, user.id, "audio.deleted")
    assert deleted["data"] == {"fileId": file["id"]}
    assert kinds(stack, user.id) == ["user.registered", "audio.verified", "job.queued",
                                     "job.completed", "audio.renamed", "audio.deleted"]


def test_a_file_that_is_refused_is_told(stack, user):
    grant = audio.store(user.client, "a.mp3", b"this is no music" * 100)
    assert audio.complete(user.client, grant["key"]).status in (415, 422)
    assert audio.complete(user.client, grant["key"]).status in (415, 422)
    (rejected,) = told(stack, user.id, "audio.rejected")
    assert rejected["data"]["fileId"] == grant["fileId"]


def test_a_job_and_what_it_makes_are_told_in_the_trace_of_the_request(stack, user):
    file = audio.upload(user.client, "a.mp3", tracks.short_mp3())
    trace = "0af7651916cd43dd8448eb211c80319c"
    job = user.client.post("/api/audio/convert", {"fileId": file["id"], "format": "flac"}, expect=202,
                           headers={"traceparent": f"00-{trace}-b7ad6b7169203331-01"}).json
    result = audio.wait_job(user.client, job["jobId"])["result"]
    mine = [e for e in told(stack, user.id, "job.queued", 2) + told(stack, user.id, "job.completed", 2)
            if e["data"]["jobId"] == job["jobId"]]
    (created,) = told(stack, user.id, "audio.created")
    assert created["data"]["fileId"] == result["fileId"] and created["data"]["origin"] == "convert"
    assert len(mine) == 2
    assert all(trace in e["traceparent"] for e in mine + [created])


def test_a_job_that_fails_or_is_cancelled_is_told(stack, user):
    shard, bad = stack.shard_of(user.id), None
    grant = audio.begin_upload(user.client, "a.mp3", b"x").json
    bad = grant["fileId"][:-4] + "beef"
    stack.sql(shard, "INSERT INTO jobs (id, user_id, type, payload) VALUES (%s, %s, 'audio-convert', "
                     "'{}')", bad, user.id)
    (failed,) = told(stack, user.id, "job.failed")
    assert failed["data"]["jobId"] == bad and failed["data"]["code"]
    late = grant["fileId"][:-4] + "cafe"
    stack.sql(shard, "INSERT INTO jobs (id, user_id, type, payload, run_at) VALUES (%s, %s, "
                     "'audio-convert', '{}', now() + interval '1 hour')", late, user.id)
    user.client.delete(f"/api/jobs/{late}", expect=204)
    user.client.delete(f"/api/jobs/{late}", expect=204)
    (cancelled,) = told(stack, user.id, "job.cancelled")
    assert cancelled["data"] == {"jobId": late, "type": "audio-convert"}


def test_mails_are_no_events_of_their_user(stack, user):
    assert stack.sql(stack.shard_of(user.id), "SELECT count(*) FROM jobs WHERE user_id = %s AND type = "
                                              "'email-send'", user.id) == [(1,)]
    user.client.patch("/api/auth/me", {"name": "Later"}, expect=200)
    told(stack, user.id, "user.renamed")
    assert kinds(stack, user.id) == ["user.registered", "user.renamed"]


def test_an_operators_change_is_told(stack, user):
    done = stack.ctl("user", "create-admin", user.email, text="correct horse battery\n")
    assert done.returncode == 0, done.stdout + done.stderr
    (changed,) = told(stack, user.id, "user.role_changed")
    assert changed["data"]["role"] == "admin"


def test_what_is_refused_is_not_told(stack, user):
    user.client.patch("/api/auth/me", {"name": "No"}, headers={"If-Match": '"v99"'}, expect=412)
    user.client.patch("/api/auth/me", {"name": ""}, expect=422)
    user.client.delete(f"/api/audio/{user.id[:8]}-0000-8000-8000-000000000000", expect=404)
    assert kinds(stack, user.id) == ["user.registered"]


def test_a_replay_is_not_told_again(stack, user):
    for _ in range(2):
        user.client.patch("/api/auth/me", {"name": "Once"}, expect=200,
                          headers={"Idempotency-Key": "events-replay"})
    told(stack, user.id, "user.renamed")
    assert kinds(stack, user.id) == ["user.registered", "user.renamed"]


def test_every_change_that_many_make_at_once_has_its_event_in_order(stack, user):
    done = []

    def rename(number):
        client = stack.client(token=user.client.token)
        for n in range(10):
            reply = client.patch("/api/auth/me", {"name": f"{number}-{n}"})
            if reply.status == 200:
                done.append(reply.json["name"])
    threads = [threading.Thread(target=rename, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    events = told(stack, user.id, "user.renamed", len(done))
    assert sorted(e["data"]["name"] for e in events) == sorted(done)
    versions = [e["data"]["version"] for e in events]
    assert versions == sorted(versions) and len(set(versions)) == len(versions)
    assert [int(e["sequence"]) for e in events] == list(range(2, len(done) + 2))
    assert events[-1]["data"]["name"] == user.client.get("/api/auth/me").json["name"]


@pytest.mark.parametrize("kind", sorted(TABLE))
def test_every_event_of_the_table_is_tested_above(kind):
    assert kind == "user.removed" or f'"{kind}"' in pathlib.Path(__file__).read_text()
