"""Audio files: uploads that are checked, lists, changes, downloads, and whose they are."""
import re
import threading

import pytest
import requests

from harness import audio, tracks


def upload_request(client, **changes):
    """The reply of upload-url with these fields changed; None leaves one out."""
    body = {"fileName": "song.mp3", "contentType": "audio/mpeg", "size": 1000}
    body.update(changes)
    return client.post("/api/audio/upload-url", {k: v for k, v in body.items() if v is not None})


# upload-url

def test_a_grant_names_a_key_of_generated_ids_only(user):
    grant = audio.begin_upload(user.client, "Mein Lied (1).mp3", b"x" * 1000).json
    assert grant["key"] == f"audio/{user.id}/{grant['fileId']}.mp3"
    assert grant["fileId"] in grant["url"]
    assert "Lied" not in grant["url"]


def test_an_owned_id_begins_with_its_owners_place(stack, user):
    grant = audio.begin_upload(user.client, "a.mp3", b"x").json
    assert stack.shard_of(grant["fileId"]) == stack.shard_of(user.id)
    import hashlib
    assert grant["fileId"][:8] == hashlib.sha256(user.id.encode()).hexdigest()[:8]


@pytest.mark.parametrize("content_type,extension", [
    ("audio/mpeg", "mp3"), ("audio/wav", "wav"), ("audio/x-wav", "wav"), ("audio/flac", "flac")])
def test_types_that_are_allowed(client, content_type, extension):
    reply = upload_request(client, contentType=content_type)
    assert reply.status == 201
    assert reply.json["key"].endswith("." + extension)


@pytest.mark.parametrize("content_type", ["audio/ogg", "video/mp4", "application/zip", "text/html",
                                          "image/svg+xml",
                                          "audio", "*/*", "audio/mpegurl", ""])
def test_types_that_are_not_allowed_get_415(client, content_type):
    reply = upload_request(client, contentType=content_type)
    assert (reply.status, reply.code) == (415, "unsupported_media_type")


def test_a_file_may_be_as_large_as_configured_and_no_larger(stack, client):
    most = int(stack.env["MAX_FILE_SIZE"])
    assert upload_request(client, size=most).status == 201
    reply = upload_request(client, size=most + 1)
    assert (reply.status, reply.code) == (413, "payload_too_large")
    assert upload_request(client, size=2 ** 62).status == 413


def test_type_is_judged_before_size_and_size_before_fields(stack, client):
    large = int(stack.env["MAX_FILE_SIZE"]) + 1
    assert upload_request(client, contentType="text/plain", size=large, fileName="").status == 415
    assert upload_request(client, size=large, fileName="").status == 413
    assert upload_request(client, fileName="").status == 422


@pytest.mark.parametrize("changes,violation", [
    ({"fileName": None}, ("fileName", "required")),
    ({"contentType": None}, ("contentType", "required")),
    ({"size": None}, ("size", "required")), ({"size": 0}, ("size", "range")),
    ({"size": -1}, ("size", "range")),
    ({"size": "1000"}, ("size", "type")), ({"size": 10.5}, ("size", "type")),
    ({"size": True}, ("size", "type")),
    ({"fileName": "x" * 256}, ("fileName", "length")), ({"fileName": 7}, ("fileName", "type")),
    ({"key": "audio/x"}, ("key", "unknown")), ({"userId": "x"}, ("userId", "unknown"))])
def test_upload_url_names_the_field_and_what_is_wrong_with_it(client, changes, violation):
    reply = upload_request(client, **changes)
    assert reply.status == 422
    assert reply.violations == {violation}


@pytest.mark.parametrize("name,label", [
    ("/etc/passwd.mp3", "passwd.mp3"), ("..\\..\\x\\song.mp3", "song.mp3"),
    ("../../../song.mp3", "song.mp3"),
    ("C:\\Music\\My Song.mp3", "My Song.mp3"), ("Ünïcode – 歌.mp3", "Ünïcode – 歌.mp3"),
    ("a;b&c='d'\"e\".mp3", "a;b&c='d'\"e\".mp3"), ("%2e%2e%2fx.mp3", "%2e%2e%2fx.mp3")])
def test_a_file_name_is_a_label_without_its_path(client, name, label):
    grant = upload_request(client, fileName=name).json
    assert client.get(f"/api/audio/{grant['fileId']}", expect=200).json["fileName"] == label


@pytest.mark.parametrize("name", ["a\u0000b.mp3", "a\r\nX: y.mp3", "\u001b[2J.mp3"])
def test_a_file_name_has_no_control_characters(client, name):
    reply = upload_request(client, fileName=name)
    assert reply.status == 422
    assert {field for field, _ in reply.violations} == {"fileName"}


# What the URL allows

def test_the_url_takes_the_announced_bytes(client):
    data = tracks.short_mp3()
    assert audio.put(audio.begin_upload(client, "a.mp3", data).json, data).status_code == 200


def test_the_url_takes_no_other_length_type_method_or_key(client):
    data = tracks.short_mp3()
    grant = audio.begin_upload(client, "a.mp3", data).json
    headers = {k: v for k, v in grant["headers"].items() if k.lower() != "content-length"}
    longer = audio.put(grant, data + b"more", headers)
    other_type = audio.put(grant, data, {"Content-Type": "text/html"})
    other_key = requests.put(grant["url"].replace(grant["fileId"], "0" * 36), data=data,
                             headers=grant["headers"], timeout=20)
    reading = requests.get(grant["url"], timeout=20)
    for reply in (longer, other_type, other_key, reading):
        assert reply.status_code in (400, 403), reply.status_code
    audio.complete(client, grant["key"], expect=409)


# complete-upload

FOREIGN_KEY = ("audio/0199aa0c-5e1f-7c31-8a52-1f0b3c4d5e6f/"
               "9b2f61d4-0199-8a4b-9c3d-7f6a5b4c3d2e.mp3")


def test_completing_before_the_bytes_are_there_is_a_conflict_and_can_be_repeated(client):
    data = tracks.short_mp3()
    grant = audio.begin_upload(client, "a.mp3", data).json
    audio.complete(client, grant["key"], expect=409)
    assert client.get(f"/api/audio/{grant['fileId']}").json["status"] == "pending"
    assert audio.put(grant, data).status_code == 200
    audio.complete(client, grant["key"], expect=201)


def test_completing_again_gives_the_same_answer(client):
    grant = audio.store(client, "a.mp3", tracks.short_mp3())
    first = audio.complete(client, grant["key"], expect=201)
    second = audio.complete(client, grant["key"], expect=201)
    assert second.json == first.json
    assert second.headers["ETag"] == first.headers["ETag"]


def test_completing_many_times_at_once_gives_the_same_answer(stack, user):
    grant = audio.store(user.client, "a.mp3", tracks.short_mp3())
    answers = []

    def one():
        client = stack.client(token=user.client.token)
        answers.append(audio.complete(client, grant["key"]))
    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    done = [a for a in answers if a.status == 201]
    assert done, answers
    assert all(a.status in (201, 503) for a in answers), answers
    ids = {(a.json["id"], a.json["status"]) for a in done}
    assert ids == {(grant["fileId"], "verified")}


def test_the_key_must_be_one_of_yours(user, other):
    grant = audio.store(other.client, "a.mp3", tracks.short_mp3())
    audio.complete(user.client, grant["key"], expect=404)
    forged = grant["key"].replace(other.id, user.id)
    audio.complete(user.client, forged, expect=404)
    audio.complete(other.client, grant["key"], expect=201)


@pytest.mark.parametrize("key", ["x", "audio/", "../audit", "logs/2026-01-01/audit.log",
                                 "audio/a/b.mp3", "audio/%s/x.mp3",
                                 FOREIGN_KEY])
def test_a_key_that_is_none_is_404(client, key):
    audio.complete(client, key, expect=404)


@pytest.mark.parametrize("body,violation", [
    ({}, ("key", "required")), ({"key": 7}, ("key", "type")), ({"key": ""}, ("key", "length")),
    ({"key": "x", "size": 1}, ("size", "unknown"))])
def test_complete_upload_names_the_field_and_what_is_wrong_with_it(client, body, violation):
    reply = client.post("/api/audio/complete-upload", body, expect=422)
    assert reply.violations == {violation}


@pytest.mark.parametrize("make", [tracks.zip_archive, tracks.text, tracks.noise, tracks.picture,
                                  tracks.ogg_named_mp3],
                         ids=lambda make: make.__name__)
def test_what_is_no_mp3_is_rejected_for_good(client, make):
    grant = audio.store(client, "song.mp3", make())
    first = audio.complete(client, grant["key"], expect=(415, 422))
    again = audio.complete(client, grant["key"], expect=first.status)
    assert again.code == first.code
    file = client.get(f"/api/audio/{grant['fileId']}", expect=200).json
    assert file["status"] == "rejected"
    client.get(f"/api/audio/{grant['fileId']}/url", expect=409)
    client.post("/api/audio/convert", {"fileId": grant["fileId"], "format": "mp3"}, expect=409)


# Reading, listing, changing

@pytest.fixture(scope="module")
def owner(stack):
    """An account with one verified and analysed file, which no test changes."""
    account = stack.user()
    file = audio.upload(account.client, "owned.mp3", tracks.short_mp3())
    account.file = audio.analysed(account.client, file["id"])
    return account


def test_no_url_before_the_file_is_verified(client):
    grant = audio.begin_upload(client, "a.mp3", b"x" * 10).json
    client.get(f"/api/audio/{grant['fileId']}/url", expect=409)


def test_the_url_of_a_file_gives_its_bytes_under_its_name_and_in_ranges(owner):
    reply = owner.client.get(f"/api/audio/{owner.file['id']}/url", expect=200).json
    data = tracks.short_mp3()
    whole = requests.get(reply["url"], timeout=20)
    assert whole.content == data
    assert "owned.mp3" in whole.headers["Content-Disposition"]
    part = requests.get(reply["url"], headers={"Range": "bytes=1000-1999"}, timeout=20)
    assert part.status_code == 206
    assert part.content == data[1000:2000]


def test_a_changed_url_is_worth_nothing(owner):
    url = owner.client.get(f"/api/audio/{owner.file['id']}/url").json["url"]
    signature = re.search(r"X-Amz-Signature=([0-9a-f]{64})", url).group(1)
    changed = url.replace(signature, signature[:-1] + ("0" if signature[-1] != "0" else "1"))
    assert requests.get(changed, timeout=20).status_code == 403
    longer = re.sub(r"X-Amz-Expires=(\d+)", "X-Amz-Expires=604800", url)
    assert requests.get(longer, timeout=20).status_code == 403
    assert requests.get(url.partition("?")[0], timeout=20).status_code == 403


@pytest.mark.parametrize("method,suffix,body", [
    ("GET", "", None), ("PATCH", "", {"fileName": "mine.mp3"}), ("DELETE", "", None),
    ("GET", "/url", None)])
def test_another_users_file_is_not_there(owner, user, method, suffix, body):
    user.client.request(method, f"/api/audio/{owner.file['id']}{suffix}", json=body, expect=404)
    assert owner.client.get(f"/api/audio/{owner.file['id']}", expect=200).json == owner.file


@pytest.mark.parametrize("path", ["convert", "waveform"])
def test_another_users_file_cannot_be_worked_on(owner, user, path):
    body = {"fileId": owner.file["id"]} | ({"format": "wav"} if path == "convert" else {})
    user.client.post(f"/api/audio/{path}", body, expect=404)


def test_lists_show_your_own_files_the_newest_first_and_each_once(client):
    ids = [audio.begin_upload(client, f"{n}.mp3", b"x").json["fileId"] for n in range(7)]
    seen, path = [], "/api/audio?limit=3"
    while path:
        page = client.get(path, expect=200).json
        seen += [item["id"] for item in page["items"]]
        path = page["nextCursor"] and f"/api/audio?limit=3&cursor={page['nextCursor']}"
    assert seen == ids[::-1]


def test_a_list_of_exactly_one_page_has_no_next(client):
    for n in range(3):
        audio.begin_upload(client, f"{n}.mp3", b"x")
    assert client.get("/api/audio?limit=3", expect=200).json["nextCursor"] is None


def test_a_new_account_has_an_empty_list(client):
    assert client.get("/api/audio", expect=200).json == {"items": [], "nextCursor": None}


@pytest.mark.parametrize("resource", ["audio", "jobs", "auth/sessions"])
@pytest.mark.parametrize("query", ["limit=0", "limit=-1", "limit=101", "limit=1e2", "limit=",
                                   "limit=9999999999999999999",
                                   "cursor=", "cursor=x", "cursor=%00", "cursor=" + "A" * 300,
                                   "page=2",
                                   "limit=1&limit=2"])
def test_lists_refuse_bad_paging(owner, resource, query):
    owner.client.get(f"/api/{resource}?{query}", expect=400 if "%00" in query else 422)


def test_a_cursor_of_another_user_shows_only_your_own(owner, client):
    for n in range(2):
        audio.begin_upload(owner.client, f"{n}.mp3", b"x")
    cursor = owner.client.get("/api/audio?limit=1").json["nextCursor"]
    reply = client.get(f"/api/audio?cursor={cursor}", expect=(200, 422))
    if reply.status == 200:
        assert reply.json["items"] == []


def test_a_file_can_be_renamed_under_its_version(client):
    file = audio.upload(client, "old.mp3", tracks.short_mp3())
    path = f"/api/audio/{file['id']}"
    tag = client.get(path).headers["ETag"]
    renamed = client.patch(path, {"fileName": "new.mp3"}, headers={"If-Match": tag}, expect=200)
    assert renamed.json["fileName"] == "new.mp3"
    assert renamed.json["key"] == file["key"]
    client.patch(path, {"fileName": "x.mp3"}, headers={"If-Match": tag}, expect=412)
    client.delete(path, headers={"If-Match": tag}, expect=412)
    assert client.get(path).json["fileName"] == "new.mp3"
    client.delete(path, headers={"If-Match": renamed.headers["ETag"]}, expect=204)


@pytest.mark.parametrize("body,violation", [
    ({"fileName": ""}, ("fileName", "length")), ({"fileName": 1}, ("fileName", "type")),
    ({"status": "verified"}, ("status", "unknown")), ({"key": "x"}, ("key", "unknown"))])
def test_rename_names_the_field_and_what_is_wrong_with_it(owner, body, violation):
    reply = owner.client.patch(f"/api/audio/{owner.file['id']}", body, expect=422)
    assert reply.violations == {violation}


def test_a_deleted_file_is_gone_with_its_bytes(client):
    file = audio.upload(client, "a.mp3", tracks.short_mp3())
    url = client.get(f"/api/audio/{file['id']}/url").json["url"]
    client.delete(f"/api/audio/{file['id']}", expect=204)
    for path in (f"/api/audio/{file['id']}", f"/api/audio/{file['id']}/url"):
        client.get(path, expect=404)
    client.delete(f"/api/audio/{file['id']}", expect=404)
    assert client.get("/api/audio").json["items"] == []
    from harness.waits import wait_until
    wait_until(lambda: requests.get(url, timeout=20).status_code == 404, 10, "the object to go")


# Requests of jobs

@pytest.mark.parametrize("body,fields", [
    ({}, {"fileId", "format"}), ({"format": "mp3"}, {"fileId"}), ({"fileId": "x", "format": "mp3"},
            {"fileId"}),
    ({"fileId": "F", "format": "midi"}, {"format"}),
    ({"fileId": "F", "format": "mp3", "bitrate": 7}, {"bitrate"}),
    ({"fileId": "F", "format": "mp3", "bitrate": "high"}, {"bitrate"}),
    ({"fileId": "F", "format": "mp3", "sampleRate": 1}, {"sampleRate"}),
    ({"fileId": "F", "format": "mp3", "channels": 0}, {"channels"}),
    ({"fileId": "F", "format": "mp3", "channels": 9}, {"channels"}),
    ({"fileId": "F", "format": "mp3", "targetLufs": 3}, {"targetLufs"}),
    ({"fileId": "F", "format": "mp3", "loudness": -14}, {"loudness"})])
def test_convert_names_the_field_and_what_is_wrong_with_it(owner, body, fields):
    body = {k: owner.file["id"] if v == "F" else v for k, v in body.items()}
    reply = owner.client.post("/api/audio/convert", body, expect=422)
    assert {field for field, _ in reply.violations} == fields


@pytest.mark.parametrize("body", [
    {"format": "mp3", "bitrate": 128000, "quality": 5}, {"format": "wav", "bitrate": 128000},
    {"format": "flac", "bitrate": 128000}, {"format": "mp3", "channels": 6},
    {"format": "opus", "sampleRate": 44100},
    {"format": "mp3", "sampleRate": 96000}])
def test_convert_refuses_what_a_format_cannot_do_up_front(owner, body):
    owner.client.post("/api/audio/convert", {"fileId": owner.file["id"]} | body, expect=422)


@pytest.mark.parametrize("body,fields", [
    ({}, {"fileId"}), ({"fileId": "F", "zoom": 0}, {"zoom"}), ({"fileId": "F", "zoom": "x"},
            {"zoom"}),
    ({"fileId": "F", "bits": 12}, {"bits"}), ({"fileId": "F", "version": 3}, {"version"}),
    ({"fileId": "F", "perChannel": "yes"}, {"perChannel"}), ({"fileId": "F", "width": 1},
            {"width"}),
    ({"fileId": "F", "height": 100000}, {"height"}), ({"fileId": "F", "pixelsPerSecond": 0},
                                                      {"pixelsPerSecond"}),
    ({"fileId": "F", "rms": True}, {"rms"})])
def test_waveform_names_the_field_and_what_is_wrong_with_it(owner, body, fields):
    body = {k: owner.file["id"] if v == "F" else v for k, v in body.items()}
    reply = owner.client.post("/api/audio/waveform", body, expect=422)
    assert {field for field, _ in reply.violations} == fields


@pytest.mark.parametrize("body", [
    {"zoom": []}, {"zoom": [256, "x"]}, {"zoom": [0]}, {"zoom": list(range(100, 300))},
    {"zoom": 256, "pixelsPerSecond": 10},
    {"colors": {"background": "red; DROP"}}, {"colors": 7}, {"colors": {"evil": "#000000"}}])
def test_waveform_refuses_odd_zooms_and_colors(owner, body):
    owner.client.post("/api/audio/waveform", {"fileId": owner.file["id"]} | body, expect=422)
