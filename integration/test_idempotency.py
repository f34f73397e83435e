"""Idempotency-Key: the same request twice is one effect and one answer."""
import threading
import uuid

import pytest

from harness import audio, tracks
from harness.client import patiently, random_email

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
