"""Chunked uploads: parts in any order, resuming, joining, aborting, and whose they are."""
import pytest
import requests

from harness import audio, tracks

UPLOADS = "/api/uploads/multipart"


def begin(client, data, name="set.wav", **changes):
    """The reply of a new chunked upload."""
    body = {"fileName": name, "contentType": audio.content_type_of(name), "size": len(data)}
    body.update(changes)
    return client.post(UPLOADS, {k: v for k, v in body.items() if v is not None})


def parts_of(data, upload):
    """{number: bytes}."""
    size = upload["partSize"]
    return {n + 1: data[n * size:(n + 1) * size] for n in range(upload["partCount"])}


def send(client, upload, data, numbers):
    """PUT these parts; {number: etag}."""
    granted = client.post(f"{UPLOADS}/{upload['id']}/parts", {"partNumbers": numbers},
                          expect=200).json
    assert [part["partNumber"] for part in granted["parts"]] == numbers
    etags = {}
    for part in granted["parts"]:
        content = parts_of(data, upload)[part["partNumber"]]
        stored = requests.put(part["url"], data=content, headers=part["headers"], timeout=60)
        assert stored.status_code == 200, stored.text
        etags[part["partNumber"]] = stored.headers["ETag"]
    return etags


@pytest.fixture
def big():
    """A WAV of two parts."""
    return tracks.big_wav()


def test_parts_in_any_order_are_joined_to_a_verified_file(client, big):
    upload = begin(client, big).json
    assert upload["partCount"] == -(-len(big) // upload["partSize"]) == 2
    etags = send(client, upload, big, [2]) | send(client, upload, big, [1])
    parts = [{"partNumber": n, "etag": etags[n]} for n in sorted(etags)]
    reply = client.post(f"{UPLOADS}/{upload['id']}/complete", {"parts": parts}, expect=201)
    assert reply.json["id"] == upload["fileId"]
    assert reply.json["status"] == "verified"
    assert reply.json["size"] == len(big)
    url = client.get(f"/api/audio/{upload['fileId']}/url", expect=200).json["url"]
    assert audio.sha256(audio.download(url)) == audio.sha256(big)


def test_an_upload_is_resumed_from_what_has_arrived(stack, user, big):
    upload = begin(user.client, big).json
    etags = send(user.client, upload, big, [1])
    later = user.second_client()
    state = later.get(f"{UPLOADS}/{upload['id']}", expect=200).json
    assert state["status"] == "open"
    assert [(p["partNumber"], p["size"]) for p in state["parts"]] == [(1, upload["partSize"])]
    assert state["parts"][0]["etag"].strip('"') == etags[1].strip('"')
    send(later, upload, big, [2])
    later.post(f"{UPLOADS}/{upload['id']}/complete", expect=201)
    assert later.get(f"{UPLOADS}/{upload['id']}").json["status"] == "completed"


def test_completing_again_gives_the_same_answer(client):
    data = tracks.short_mp3()
    upload = begin(client, data, "a.mp3").json
    send(client, upload, data, [1])
    first = client.post(f"{UPLOADS}/{upload['id']}/complete", {}, expect=201)
    second = client.post(f"{UPLOADS}/{upload['id']}/complete", {}, expect=201)
    assert first.json == second.json


def test_completing_with_parts_missing_is_a_conflict_and_can_be_repeated(client, big):
    upload = begin(client, big).json
    etags = send(client, upload, big, [1])
    client.post(f"{UPLOADS}/{upload['id']}/complete", expect=409)
    client.post(f"{UPLOADS}/{upload['id']}/complete",
                {"parts": [{"partNumber": 1, "etag": etags[1]}]}, expect=(409, 422))
    send(client, upload, big, [2])
    client.post(f"{UPLOADS}/{upload['id']}/complete", expect=201)


def test_a_part_that_was_not_sent_cannot_be_claimed(client, big):
    upload = begin(client, big).json
    etags = send(client, upload, big, [1])
    parts = [{"partNumber": 1, "etag": etags[1]}, {"partNumber": 2, "etag": '"' + "0" * 32 + '"'}]
    client.post(f"{UPLOADS}/{upload['id']}/complete", {"parts": parts}, expect=(409, 422))


def test_what_is_no_audio_is_rejected_after_joining(client):
    data = tracks.zip_archive()
    upload = begin(client, data, "a.mp3").json
    send(client, upload, data, [1])
    client.post(f"{UPLOADS}/{upload['id']}/complete", expect=(415, 422))
    assert client.get(f"/api/audio/{upload['fileId']}").json["status"] == "rejected"


def test_an_aborted_upload_takes_nothing_more(client, big):
    upload = begin(client, big).json
    part = client.post(f"{UPLOADS}/{upload['id']}/parts", {"partNumbers": [1]}).json["parts"][0]
    client.delete(f"{UPLOADS}/{upload['id']}", expect=204)
    assert client.get(f"{UPLOADS}/{upload['id']}", expect=(200, 404)).status in (200, 404)
    client.post(f"{UPLOADS}/{upload['id']}/parts", {"partNumbers": [1]}, expect=(404, 409))
    client.post(f"{UPLOADS}/{upload['id']}/complete", expect=(404, 409))
    stored = requests.put(part["url"], data=parts_of(big, upload)[1], headers=part["headers"],
                          timeout=60)
    assert stored.status_code == 404
    client.delete(f"{UPLOADS}/{upload['id']}", expect=(204, 404))


@pytest.mark.parametrize("method,suffix,body", [
    ("GET", "", None), ("DELETE", "", None), ("POST", "/complete", None),
    ("POST", "/parts", {"partNumbers": [1]})])
def test_another_users_upload_is_not_there(user, other, method, suffix, body):
    upload = begin(other.client, tracks.short_mp3(), "a.mp3").json
    user.client.request(method, f"{UPLOADS}/{upload['id']}{suffix}", json=body, expect=404)
    assert other.client.get(f"{UPLOADS}/{upload['id']}", expect=200).json["status"] == "open"


def test_type_is_judged_before_size_and_size_before_fields(stack, client):
    large = int(stack.env["MAX_FILE_SIZE"]) + 1
    assert begin(client, b"", contentType="text/plain", size=large, fileName="").status == 415
    assert begin(client, b"", size=large, fileName="").status == 413
    assert begin(client, b"", size=1, fileName="").status == 422


@pytest.mark.parametrize("body,field", [
    ({}, "partNumbers"), ({"partNumbers": []}, "partNumbers"),
    ({"partNumbers": [0]}, "partNumbers"),
    ({"partNumbers": [3]}, "partNumbers"), ({"partNumbers": [1, 1]}, "partNumbers"),
    ({"partNumbers": ["1"]}, "partNumbers"), ({"partNumbers": 1}, "partNumbers"),
    ({"partNumbers": list(range(1, 102))}, "partNumbers"), ({"partNumbers": [1], "x": 1}, "x")])
def test_parts_names_the_field_and_what_is_wrong_with_it(client, big, body, field):
    upload = begin(client, big).json
    reply = client.post(f"{UPLOADS}/{upload['id']}/parts", body, expect=422)
    assert {name.split("[")[0] for name, _ in reply.violations} == {field}
