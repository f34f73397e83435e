"""The cache before S3: who has no good signature never gets a byte of it; what is deleted is gone.

Whether a reply came from the cache is told by X-Cache; S3 itself is asked no more for what is a HIT."""
import urllib.parse

import pytest
import requests

from harness import audio, tracks
from harness.stack import private_stack
from harness.waits import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("cdn")]


@pytest.fixture(scope="module", name="fleet")
def _fleet(stack):
    with private_stack(stack, "cdn", PHASE=1, SHARD_COUNT=1, RATE_LIMIT_MAX=1000000,
                       RATE_LIMIT_CRITICAL_MAX=100000) as found:
        yield found


@pytest.fixture(name="artist")
def _artist(fleet):
    account = fleet.user()
    yield account
    account.close()


@pytest.fixture(name="track")
def _track(artist):
    """An object: its file, bytes and a presigned URL, read once, so that it is in the cache."""
    class Track:
        data = tracks.short_mp3()
        file = audio.upload(artist.client, "Übung 1.mp3", data)
        url = artist.client.get(f"/api/audio/{file['id']}/url", expect=200).json["url"]
    first = requests.get(Track.url, timeout=30)
    assert (first.status_code, first.headers["X-Cache"], first.content) == (200, "MISS", Track.data)
    assert ask(Track.url).headers["X-Cache"] == "HIT"
    return Track


@pytest.fixture(name="signed")
def _signed(fleet):
    """Presign a GET by boto3."""
    def sign(key, seconds=60):
        return fleet.s3(fleet.s3_url).generate_presigned_url(
            "get_object", Params={"Bucket": fleet.env["S3_BUCKET"], "Key": key}, ExpiresIn=seconds)
    return sign


def ask(url, method="GET", **headers):
    """The reply to a URL as it stands."""
    request = requests.Request(method, url, headers=headers).prepare()
    request.url = url  # requests would tidy it
    with requests.Session() as session:
        return session.send(request, timeout=30)


def changed(url, **parameters):
    """The URL with other values of its parameters; None: without."""
    base, _, query = url.partition("?")
    pairs = dict(urllib.parse.parse_qsl(query))
    pairs.update({k.replace("_", "-"): v for k, v in parameters.items()})
    return base + "?" + urllib.parse.urlencode({k: v for k, v in pairs.items() if v is not None})


def test_a_second_read_comes_from_the_cache_as_the_first_did(track):
    hit = ask(track.url)
    assert (hit.status_code, hit.headers["X-Cache"], hit.content) == (200, "HIT", track.data)
    assert hit.headers["Content-Type"] == "audio/mpeg"
    assert hit.headers["ETag"]
    assert "no-store" not in hit.headers.get("Cache-Control", "")


def test_the_cache_answers_while_s3_is_away(fleet, track):
    with fleet.stopped("s3"):
        assert ask(track.url).content == track.data
    fleet.wait_ready()


def test_another_url_of_the_object_is_a_hit_with_its_own_file_name(artist, track):
    artist.client.patch(f"/api/audio/{track.file['id']}", {"fileName": "Other.mp3"}, expect=200)
    second = artist.client.get(f"/api/audio/{track.file['id']}/url", expect=200).json["url"]
    reply = ask(second)
    assert (reply.headers["X-Cache"], reply.content) == ("HIT", track.data)
    assert 'filename="Other.mp3"' in reply.headers["Content-Disposition"]
    assert "Other" not in ask(track.url).headers["Content-Disposition"]


FORGERIES = {
    "another signature": lambda url: changed(url, X_Amz_Signature="0" * 64),
    "a digit of it": lambda url: url[:-1] + ("0" if url[-1] != "0" else "1"),
    "no signature": lambda url: changed(url, X_Amz_Signature=None),
    "an empty signature": lambda url: changed(url, X_Amz_Signature=""),
    "a longer life": lambda url: changed(url, X_Amz_Expires="604800"),
    "another day": lambda url: changed(url, X_Amz_Date="20200101T000000Z"),
    "a day to come": lambda url: changed(url, X_Amz_Date="20990101T000000Z"),
    "a broken day": lambda url: changed(url, X_Amz_Date="2026-01-01T00:00"),
    "another name": lambda url: changed(url, **{"response_content_disposition": "inline"}),
    "another region": lambda url: url.replace("us-east-1", "eu-west-1"),
    "another access key": lambda url: url.replace("Credential=MB", "Credential=MX"),
    "one parameter more": lambda url: url + "&x=1",
    "another object's signature": lambda url: url.replace("/audio/", "/audio/x", 1),
    "no query": lambda url: url.partition("?")[0],
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_url_gets_no_byte_of_the_cache(track, forgery):
    forged = FORGERIES[forgery](track.url)
    assert forged != track.url
    for method in ("GET", "HEAD"):
        reply = ask(forged, method)
        assert reply.status_code in (400, 401, 403, 404), reply.status_code
        assert reply.headers.get("X-Cache") != "HIT"
        assert track.data[:64] not in reply.content
    ranged = ask(forged, Range="bytes=0-9")
    assert ranged.status_code in (400, 401, 403, 404)
    assert track.data[:10] not in ranged.content


def test_a_url_of_another_host_name_gets_no_byte_of_the_cache(track):
    reply = ask(track.url, Host="127.0.0.1")
    assert reply.status_code == 403
    assert reply.headers.get("X-Cache") != "HIT"


def test_an_expired_url_gets_no_byte_of_the_cache(signed, track):
    """Signed by boto3, for a shorter life than ours have; the same bytes, so the cache takes it."""
    url = signed(track.file["key"], seconds=5)
    reply = ask(url)
    assert (reply.headers["X-Cache"], reply.content) == ("HIT", track.data)
    [reply] = wait_until(lambda: [r] if (r := ask(url)).status_code != 200 else None, 20, "its end")
    assert reply.status_code in (400, 403)
    assert track.data[:64] not in reply.content


def test_ranges_are_right_from_the_cache(track):
    size = len(track.data)
    for asked, first, last in (("0-9", 0, 9), ("100-", 100, size - 1), ("-7", size - 7, size - 1)):
        reply = ask(track.url, Range=f"bytes={asked}")
        assert reply.status_code == 206
        assert reply.headers["X-Cache"] == "HIT"
        assert reply.headers["Content-Range"] == f"bytes {first}-{last}/{size}"
        assert reply.content == track.data[first:last + 1]
    assert ask(track.url, Range=f"bytes={size}-").status_code == 416


def test_a_range_that_is_not_in_the_cache_is_right_too(artist):
    data = tracks.short_mp3()
    file = audio.upload(artist.client, "a.mp3", data)
    url = artist.client.get(f"/api/audio/{file['id']}/url", expect=200).json["url"]
    reply = ask(url, Range="bytes=10-19")
    assert (reply.status_code, reply.content) == (206, data[10:20])
    assert ask(url).content == data


def test_who_has_the_copy_is_told_that_it_is_the_same(track):
    etag = ask(track.url).headers["ETag"]
    assert ask(track.url, **{"If-None-Match": etag}).status_code == 304


def test_a_browser_of_another_origin_may_read_it(track):
    reply = ask(track.url, Origin="https://app.example.com")
    assert reply.headers["Access-Control-Allow-Origin"] == "*"
    assert "ETag" in reply.headers["Access-Control-Expose-Headers"]


def test_a_deleted_object_leaves_the_cache(fleet, artist, track):
    artist.client.delete(f"/api/audio/{track.file['id']}", expect=204)
    [reply] = wait_until(lambda: [r] if (r := ask(track.url)).status_code == 404 else None, 20,
                         "it to be gone")
    assert track.data[:64] not in reply.content


def test_temporary_objects_are_never_kept(fleet, signed):
    for key, is_kept in (("temp/x/y", False), ("logs/x/y", False), ("static/x/y", True)):
        fleet.s3(fleet.s3_url).put_object(Bucket=fleet.env["S3_BUCKET"], Key=key, Body=b"some bytes")
        replies = [ask(signed(key)) for _ in range(2)]
        assert [(r.status_code, r.content) for r in replies] == [(200, b"some bytes")] * 2
        assert [r.headers.get("X-Cache") for r in replies] == (
            ["MISS", "HIT"] if is_kept else [None, None])


def test_a_rewritten_object_leaves_the_cache(fleet, signed):
    for body in (b"first", b"second"):
        fleet.s3(fleet.s3_url).put_object(Bucket=fleet.env["S3_BUCKET"], Key="static/z", Body=body)
        assert wait_until(lambda b=body: ask(signed("static/z")).content == b, 10, "the new bytes")


def test_without_the_api_s3_answers_itself(fleet, track):
    with fleet.stopped("api"):
        reply = ask(track.url)
    fleet.wait_ready()
    assert (reply.status_code, reply.content) == (200, track.data)
    assert reply.headers.get("X-Cache") != "HIT"


# --- Not the cache's matter, but every run has this fleet. ---

def test_an_account_is_read_from_a_replica(fleet, artist):
    def is_counted():
        artist.client.get("/api/auth/me", expect=200)
        return fleet.metrics()["maxbooster_db_replica_calls_total"] > 0
    wait_until(is_counted, 30, "a replica to be asked")
