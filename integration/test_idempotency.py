"""Idempotency-Key: the same request twice is one effect and one answer."""
import hashlib
import json
import threading
import uuid

import pytest
import requests

from harness import audio, mail, tracks
from harness.client import Client, patiently, random_address, random_email

BODY = {"fileName": "song.mp3", "contentType": "audio/mpeg", "size": 1000}


def key():
    """A header with a new key."""
    return {"Idempotency-Key": str(uuid.uuid4())}


def count_files(client):
    """How many files the account has."""
    return len(client.get("/api/audio", expect=200).json["items"])


def test_the_same_key_and_body_give_the_first_answer_again(client):
    headers = key()
    first = client.post("/api/audio/upload-url", BODY, headers=headers, expect=201)
    second = client.post("/api/audio/upload-url", BODY, headers=headers, expect=201)
    assert second.content == first.content
    assert count_files(client) == 1


def test_without_a_key_every_request_counts(client):
    for _ in range(2):
        client.post("/api/audio/upload-url", BODY, expect=201)
    assert count_files(client) == 2


def test_the_same_key_with_another_body_is_refused(client):
    headers = key()
    client.post("/api/audio/upload-url", BODY, headers=headers, expect=201)
    reply = client.post("/api/audio/upload-url", BODY | {"size": 1001}, headers=headers, expect=422)
    assert reply.code == "idempotency_mismatch"
    assert count_files(client) == 1


def test_the_same_key_on_another_route_is_refused(client):
    headers = key()
    client.post("/api/audio/upload-url", BODY, headers=headers, expect=201)
    reply = client.post("/api/uploads/multipart", BODY, headers=headers, expect=422)
    assert reply.code == "idempotency_mismatch"


def test_keys_of_two_users_have_nothing_to_do_with_each_other(user, other):
    headers = key()
    first = user.client.post("/api/audio/upload-url", BODY, headers=headers, expect=201).json
    second = other.client.post("/api/audio/upload-url", BODY, headers=headers, expect=201).json
    assert first["fileId"] != second["fileId"]


def test_a_refused_request_does_not_use_up_its_key(client):
    headers = key()
    client.post("/api/audio/upload-url", BODY | {"size": 0}, headers=headers, expect=422)
    client.post("/api/audio/upload-url", BODY, headers=headers, expect=201)


def test_of_many_at_once_one_takes_effect(stack, user):
    headers, answers = key(), []

    def one():
        client = stack.client(token=user.client.token)
        answers.append(patiently(
            lambda: client.post("/api/audio/upload-url", BODY, headers=headers)))
    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {a.status for a in answers} <= {201, 409}
    assert len({a.content for a in answers if a.status == 201}) == 1
    assert all(a.code == "idempotency_running" for a in answers if a.status == 409)
    assert count_files(user.client) == 1


def test_a_job_is_started_once(user):
    file = audio.upload(user.client, "a.mp3", tracks.short_mp3())
    headers, body = key(), {"fileId": file["id"]}
    first = user.client.post("/api/audio/waveform", body, headers=headers, expect=202)
    second = user.client.post("/api/audio/waveform", body, headers=headers, expect=202)
    assert second.json == first.json
    assert second.headers["Location"] == first.headers["Location"]
    started = [j["type"] for j in user.client.get("/api/jobs").json["items"]]
    assert started.count("audio-waveform") == 1


def test_a_change_is_made_once_and_told_again_as_it_was(client):
    headers = key()
    first = client.patch("/api/auth/me", {"name": "One"}, headers=headers, expect=200)
    client.patch("/api/auth/me", {"name": "Two"}, expect=200)
    again = client.patch("/api/auth/me", {"name": "One"}, headers=headers, expect=200)
    assert again.json == first.json
    assert again.headers["ETag"] == first.headers["ETag"]
    assert client.get("/api/auth/me").json["name"] == "Two"


def test_a_deletion_can_be_repeated(client):
    grant = client.post("/api/audio/upload-url", BODY, expect=201).json
    headers = key()
    for _ in range(2):
        client.delete(f"/api/audio/{grant['fileId']}", headers=headers, expect=204)


def test_a_registration_can_be_repeated(stack):
    client, headers = stack.client(), key()
    body = {"email": random_email(), "password": "a quiet harbour at dawn", "name": "Nina"}
    first = patiently(lambda: client.post("/api/auth/register", body, headers=headers))
    second = patiently(lambda: client.post("/api/auth/register", body, headers=headers))
    assert (first.status, second.status) == (201, 201)
    assert second.json == first.json


@pytest.mark.parametrize("bad", ["x" * 256, "with space", "ü"])
def test_a_key_that_is_none_is_refused(client, bad):
    client.post("/api/audio/upload-url", BODY, headers={"Idempotency-Key": bad.encode()},
                expect=400)


# --- Routes whose work is not one transaction. ---

def twice(ask, **expect):
    """The same request twice: the first reply and the replay, which must be the same."""
    first, second = patiently(ask), patiently(ask)
    assert first.status == expect["status"], repr(first)
    assert (second.status, second.content) == (first.status, first.content), repr(second)
    assert second.headers["Idempotency-Replayed"] == "true"
    assert "Idempotency-Replayed" not in first.headers
    return first


def test_a_completed_upload_is_answered_again_as_it_was(user):
    grant = audio.store(user.client, "a.mp3", tracks.short_mp3())
    headers = key()
    first = twice(lambda: user.client.post("/api/audio/complete-upload", {"key": grant["key"]},
                                           headers=headers), status=201)
    audio.analysed(user.client, first.json["id"])
    again = user.client.post("/api/audio/complete-upload", {"key": grant["key"]}, headers=headers)
    assert again.content == first.content  # without the analysis that came since
    other = audio.begin_upload(user.client, "b.mp3", b"x").json
    assert user.client.post("/api/audio/complete-upload", {"key": other["key"]}, headers=headers,
                            expect=422).code == "idempotency_mismatch"


def test_a_refused_completion_does_not_use_up_its_key(user):
    grant = audio.begin_upload(user.client, "a.mp3", tracks.short_mp3()).json
    headers = key()
    user.client.post("/api/audio/complete-upload", {"key": grant["key"]}, headers=headers, expect=409)
    audio.put(grant, tracks.short_mp3())
    user.client.post("/api/audio/complete-upload", {"key": grant["key"]}, headers=headers, expect=201)


def begin_multipart(client, data, headers=None):
    """A chunked upload of one part, stored."""
    reply = client.post("/api/uploads/multipart", {
        "fileName": "m.mp3", "contentType": "audio/mpeg", "size": len(data)}, headers=headers,
        expect=201)
    parts = client.post(f"/api/uploads/multipart/{reply.json['id']}/parts", {"partNumbers": [1]},
                        expect=200).json["parts"]
    assert requests.put(parts[0]["url"], data=data, timeout=30).status_code == 200
    return reply.json


def test_a_chunked_upload_is_begun_signed_and_joined_once(user):
    client, data = user.client, tracks.short_mp3()
    body = {"fileName": "m.mp3", "contentType": "audio/mpeg", "size": len(data)}
    begun = key()
    first = twice(lambda: client.post("/api/uploads/multipart", body, headers=begun), status=201)
    path, signing, joining = f"/api/uploads/multipart/{first.json['id']}", key(), key()
    parts = twice(lambda: client.post(f"{path}/parts", {"partNumbers": [1]}, headers=signing),
                  status=200).json["parts"]
    assert client.post(f"{path}/parts", {"partNumbers": [1], "x": 1}, headers=signing,
                       expect=422).code == "idempotency_mismatch"
    assert requests.put(parts[0]["url"], data=data, timeout=30).status_code == 200
    file = twice(lambda: client.post(f"{path}/complete", {}, headers=joining), status=201).json
    assert file["id"] == first.json["fileId"] and count_files(client) == 1


def test_an_abort_can_be_repeated(user):
    upload = begin_multipart(user.client, tracks.short_mp3())
    headers = key() | {"If-Match": '"v1"'}  # which no longer fits the second time
    path = f"/api/uploads/multipart/{upload['id']}"
    twice(lambda: user.client.delete(path, headers=headers), status=204)


def test_a_cancelled_job_is_answered_again(stack, user):
    grant = audio.begin_upload(user.client, "a.mp3", b"x").json
    job = grant["fileId"][:-4] + "cafe"
    stack.sql(stack.shard_of(user.id), "INSERT INTO jobs (id, user_id, type, payload, run_at) VALUES "
              "(%s, %s, 'audio-convert', '{}', now() + interval '1 hour')", job, user.id)
    headers = key()
    twice(lambda: user.client.delete(f"/api/jobs/{job}", headers=headers), status=204)


def test_a_password_is_changed_once(stack, user):
    headers = key()
    body = {"currentPassword": user.password, "newPassword": "an anchor in the sand"}
    twice(lambda: user.client.post("/api/auth/password/change", body, headers=headers), status=204)
    reply = user.client.post("/api/auth/password/change", body | {"newPassword": "another anchor"},
                             headers=headers, expect=422)
    assert reply.code == "idempotency_mismatch"
    wrong = key()
    for _ in range(2):  # a refusal does not use up the key
        reply = patiently(lambda: user.client.post("/api/auth/password/change", body, headers=wrong))
        assert (reply.status, reply.code) == (422, "validation_failed")


def test_a_forgotten_password_is_mailed_once(stack, user, mailbox):
    address = random_address()
    client, headers = stack.client(address=address), key()
    twice(lambda: client.post("/api/auth/password/forgot", {"email": user.email}, headers=headers),
          status=202)
    assert client.post("/api/auth/password/forgot", {"email": random_email()}, headers=headers,
                       expect=422).code == "idempotency_mismatch"
    # Another client's keys have nothing to do with these.
    stack.client(address=random_address()).post("/api/auth/password/forgot", {"email": random_email()},
                                                headers=headers, expect=202)
    token = mail.reset_token_of(mailbox.wait_for(user.email, "password"))
    assert len([m for m in mailbox.messages_to(user.email) if "token=" in mail.text_of(m)]) == 1
    resetting = key()
    body = {"token": token, "password": "a lantern on the pier"}
    twice(lambda: client.post("/api/auth/password/reset", body, headers=resetting), status=204)
    reply = patiently(lambda: client.post("/api/auth/password/reset", body | {
        "password": "another lantern"}, headers=resetting))
    assert (reply.status, reply.code) == (422, "idempotency_mismatch")


def test_a_session_ends_once_and_its_end_is_told_again(stack, user):
    other = user.second_client()
    session = next(s["id"] for s in user.client.get("/api/auth/sessions").json["items"]
                   if not s["current"])
    headers = key()
    twice(lambda: user.client.delete(f"/api/auth/sessions/{session}", headers=headers), status=204)
    other.get("/api/auth/me", expect=401)
    user.client.delete(f"/api/auth/sessions/{session}", headers=key(), expect=404)


@pytest.mark.parametrize("path", ["/api/auth/logout", "/api/auth/logout-all"])
def test_a_log_out_is_answered_again_although_its_session_is_gone(user, path):
    client, headers = user.second_client(), key()
    twice(lambda: client.post(path, headers=headers), status=204)
    client.post(path, expect=401)
    client.post(path, headers=key(), expect=401)
    client.get("/api/auth/me", headers=headers, expect=401)
    forged = Client(client.base_url, token=client.token[:-4] + "AAAA")
    forged.post(path, headers=headers, expect=401)


def test_a_log_in_is_repeated_with_one_session_and_no_stored_token(stack, user):
    client, headers = stack.client(address=random_address()), key()
    body = {"email": user.email, "password": user.password}

    def login(**change):
        return patiently(lambda: client.post("/api/auth/login", body | change, headers=headers))
    before = len(user.client.get("/api/auth/sessions").json["items"])
    first, second = login(), login()
    assert (first.status, second.status) == (200, 200)
    assert first.json["user"] == second.json["user"] and first.json["token"] != second.json["token"]
    assert len(user.client.get("/api/auth/sessions").json["items"]) == before + 1
    stack.client(token=first.json["token"]).get("/api/auth/me", expect=401)
    stack.client(token=second.json["token"]).get("/api/auth/me", expect=200)
    for change in ({"password": "another password"}, {"email": random_email()}):
        reply = login(**change)
        assert (reply.status, reply.code) == (422, "idempotency_mismatch")
    for shard in range(len(stack.shard_urls())):
        for row in stack.sql(shard, "SELECT fingerprint, body, headers::text FROM idempotency"):
            for token in (first.json["token"], second.json["token"]):
                assert all(token not in str(value) for value in row)


def test_a_log_in_that_fails_does_not_use_up_its_key(stack, user):
    client, headers = stack.client(address=random_address()), key()
    body = {"email": user.email, "password": "not the password"}
    for _ in range(2):
        assert patiently(lambda: client.post("/api/auth/login", body, headers=headers)).status == 401
    good = body | {"password": user.password}
    assert patiently(lambda: client.post("/api/auth/login", good, headers=headers)).status == 200


def test_bodies_cannot_be_tried_out_on_fingerprints(stack, user):
    """The hash of a request, which may hold a password, is keyed by what the database has not."""
    headers = key()
    user.client.post("/api/audio/upload-url", BODY, headers=headers, expect=201)
    ((stored,),) = stack.sql(stack.shard_of(user.id), "SELECT fingerprint FROM idempotency WHERE key = "
                             "%s", headers["Idempotency-Key"])
    for separator in (b"", b"\0"):
        plain = b"POST\0/api/audio/upload-url\0" + separator + json.dumps(BODY).encode()
        assert stored != hashlib.sha256(plain).hexdigest()


@pytest.mark.parametrize("path,body", [("/api/audio/complete-upload", None),
                                       ("/api/auth/login", "login")])
def test_while_the_first_runs_a_second_is_told_so(stack, user, path, body):
    """The claim of one that runs: as the first has left it."""
    address = random_address()
    client = stack.client(token=user.client.token if body is None else None, address=address)
    headers = key()
    if body is None:
        grant = audio.store(user.client, "a.mp3", tracks.short_mp3())
        body = {"key": grant["key"]}
    else:
        body = {"email": user.email, "password": user.password}
    assert patiently(lambda: client.post(path, body, headers=headers)).status in (200, 201)
    for shard in range(len(stack.shard_urls())):
        stack.sql(shard, "UPDATE idempotency SET status = 102, created_at = now() WHERE key = %s",
                  headers["Idempotency-Key"])
    reply = patiently(lambda: client.post(path, body, headers=headers))
    assert (reply.status, reply.code) == (409, "idempotency_running")
    assert "Retry-After" in reply.headers
    for shard in range(len(stack.shard_urls())):
        stack.sql(shard, "UPDATE idempotency SET created_at = now() - interval '1 hour' WHERE key = %s",
                  headers["Idempotency-Key"])
    assert patiently(lambda: client.post(path, body, headers=headers)).status in (200, 201)
