"""lib/s3 by itself: signatures against botocore's, operations and faults against a real server."""
import concurrent.futures
import datetime
import email.utils
import hashlib
import random
import re
import string
import time
import urllib.parse

import botocore.auth
import botocore.awsrequest
import botocore.credentials
import botocore.exceptions
import pytest
import requests
from harness import s3lab
from harness.waits import wait_until

pytestmark = pytest.mark.xdist_group("s3lab")

MIB = 1 << 20
PART = 5 * MIB
CREDENTIALS = botocore.credentials.Credentials(s3lab.ACCESS_KEY, s3lab.SECRET_KEY)
NAMES = ["take 1.mp3", 'say "hi"; x=y.wav', "Café del Mar 100%.flac", "ночь/зима.mp3",
         "日本語.mp3", "a\\b.mp3", "'quoted'.mp3", "emoji 🎧.ogg", "x" * 300, "."]


def pattern(size, seed):
    """What the driver sends for (size, seed)."""
    block = bytes((i * 31 + seed) % 251 for i in range(251))
    return (block * (size // 251 + 1))[:size]


def sha256(data):
    """In hex."""
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(scope="module")
def program():
    """The driver, built."""
    return s3lab.build_driver()


@pytest.fixture(scope="module")
def driver(program, gateway):
    """A driver whose own requests go straight to the server, and whose URLs go by nginx."""
    found = s3lab.Driver(program, S3_ENDPOINT=gateway.url, S3_PUBLIC_ENDPOINT=gateway.front_url,
                         S3_TIMEOUT_MS=5000, S3_RETRIES=2)
    yield found
    found.close()


@pytest.fixture(scope="module")
def peer():
    """A server that answers as it is told."""
    found = s3lab.Peer()
    yield found
    found.close()


@pytest.fixture(scope="module")
def told(program, peer):
    """A driver that talks to that server, with short pauses between its tries."""
    found = s3lab.Driver(program, S3_ENDPOINT=peer.url, S3_RETRIES=3, S3_BACKOFF_MS=2,
                         S3_BACKOFF_MAX_MS=10, S3_TIMEOUT_MS=1000)
    yield found
    found.close()


# Against botocore

def query_of(url):
    """Query parameters of a URL, decoded."""
    return dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(url).query, keep_blank_values=True,
                                       strict_parsing=True))


def freeze_botocore(monkeypatch, amz_date):
    """botocore signs at this time."""
    at = datetime.datetime.strptime(amz_date, "%Y%m%dT%H%M%SZ")

    class Frozen(datetime.datetime):
        """A clock that stands."""

        @classmethod
        def utcnow(cls):
            return at
    monkeypatch.setattr(botocore.auth.datetime, "datetime", Frozen)


def random_text(rng, alphabet, most):
    """1 … most characters."""
    return "".join(rng.choice(alphabet) for _ in range(rng.randint(1, most)))


def test_presigned_urls_are_those_of_botocore(driver, gateway, monkeypatch):
    rng = random.Random(20261123)
    letters = string.ascii_letters + string.digits + "-._~/ +%&=?#!*'()é日🎧"
    for _ in range(150):
        method = rng.choice(["GET", "PUT"])
        key = random_text(rng, letters, 60)
        options, headers, params = {"ttl": rng.randint(1, 604800)}, {}, {}
        if rng.random() < .5:
            options["content_type"] = rng.choice(["audio/mpeg", "a/b; c=d"])
            headers["Content-Type"] = options["content_type"]
        if rng.random() < .5:
            options["length"] = rng.randint(0, 1 << 40)
            headers["Content-Length"] = str(options["length"])
        if rng.random() < .3:
            options["upload_id"] = params["uploadId"] = random_text(rng, letters, 40)
            options["part"] = rng.randint(1, 10000)
            params["partNumber"] = str(options["part"])
        ours = driver.presign(method, key, **options)
        query = query_of(ours)
        freeze_botocore(monkeypatch, query["X-Amz-Date"])
        request = botocore.awsrequest.AWSRequest(
            method, f"{gateway.front_url}/{s3lab.BUCKET}/" + urllib.parse.quote(key, safe="/~"),
            headers=headers, params=params)
        botocore.auth.S3SigV4QueryAuth(CREDENTIALS, "s3", s3lab.REGION,
                                       expires=options["ttl"]).add_auth(request)
        assert query_of(request.url) == query, key
        assert ours.partition("?")[0] == request.url.partition("?")[0]


def check_signature(monkeypatch, url, request):
    """Does botocore give the Authorization that the request carries?"""
    sent = {name.lower(): value for name, value in request.headers.items()}
    signed = re.search("SignedHeaders=([^,]+),", sent["authorization"]).group(1).split(";")
    assert {"host", "x-amz-content-sha256", "x-amz-date"} <= set(signed)
    is_unsigned = sent["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD"
    assert is_unsigned == ("x-amz-checksum-crc32c" in signed)  # one or the other speaks for the body
    assert is_unsigned or sent["x-amz-content-sha256"] == sha256(request.body)
    freeze_botocore(monkeypatch, sent["x-amz-date"])
    again = botocore.awsrequest.AWSRequest(
        request.method, url + request.target, data=request.body,
        headers={name: sent[name] for name in signed if name != "x-amz-date"})
    auth = botocore.auth.S3SigV4Auth(CREDENTIALS, "s3", s3lab.REGION)
    if is_unsigned:
        monkeypatch.setattr(auth, "payload", lambda _: "UNSIGNED-PAYLOAD")
    auth.add_auth(again)
    assert again.headers["Authorization"] == sent["authorization"]


def test_signed_requests_are_those_of_botocore(told, peer, monkeypatch):
    peer.answers((404, {}, b""))
    for key in ["audio/u/f.mp3", "a b+c%/é~*'().x", "a//b/../c"]:
        told("head", key, expect="NOT_FOUND")
        told("get", key, '"etag"', 5, 10, expect="NOT_FOUND")
        told("put", key, "audio/mpeg; x=y", 1000, 3, expect="NOT_FOUND")
        told("delete", key)
        told("begin", key, "audio/wav", expect="NOT_FOUND")
        told("begin-ours", key, "audio/wav", expect="NOT_FOUND")
        told("part", key, "id/+=", 7, 0, 1, expect="NOT_FOUND")
        told("complete", key, "id/+=", 1, '"e"', 5, expect="NOT_FOUND")
        told("parts", key, "id/+=", expect="NOT_FOUND")
        told("abort", key, "id/+=")
    told("list", "temp/é +", "temp/a&b", expect="NOT_FOUND")
    told("ping", 1000, expect="DEPENDENCY_UNAVAILABLE")
    assert len(peer.requests) == 32
    for request in peer.requests:
        check_signature(monkeypatch, peer.url, request)


# Operations

def test_object_is_stored_read_and_deleted(driver):
    key = "audio/u/one.mp3"
    etag = driver("put", key, "audio/mpeg", 100000, 7).words[0]
    size, content_type, head_etag, modified_ms = driver("head", key).words
    assert (size, content_type, head_etag) == ("100000", "audio/mpeg", etag)
    assert etag.startswith('"') and abs(int(modified_ms) / 1000 - time.time()) < 60
    whole = pattern(100000, 7)
    for offset, length in [(0, 100000), (0, 1), (99999, 1), (99990, 100), (100000, 5), (1 << 40, 5),
                           (777, 65536), (0, 200000)]:
        got, digest = driver("get", key, None, offset, length).words
        assert (int(got), digest) == (len(whole[offset:offset + length]),
                                      sha256(whole[offset:offset + length]))
    driver("delete", key)
    driver("delete", key)
    driver("head", key, expect="NOT_FOUND")
    driver("get", key, None, 0, 1, expect="NOT_FOUND")


def test_range_is_pinned_to_an_etag(driver):
    key = "audio/u/pinned.mp3"
    old = driver("put", key, "audio/mpeg", 1000, 1).words[0]
    assert driver("get", key, old, 0, 10).words[0] == "10"
    driver("put", key, "audio/mpeg", 1000, 2)
    driver("get", key, old, 0, 10, expect="PRECONDITION_FAILED")


def test_empty_object_is_an_object(driver):
    driver("put", "audio/u/empty", "audio/mpeg", 0, 0)
    assert driver("head", "audio/u/empty").words[0] == "0"
    assert driver("get", "audio/u/empty", None, 0, 10).words[0] == "0"


def test_odd_keys_survive(driver):
    keys = ["odd/a b", "odd/a+b%20c", "odd/é日🎧", "odd/x&<y>'\"", "odd/~*()!;=@$,:"]
    for seed, key in enumerate(keys):
        driver("put", key, "text/plain", 10, seed)
    count, more, *rest = driver("list", "odd/", "").words
    assert (count, more) == (str(len(keys)), "all")
    assert sorted(rest[0::3]) == sorted(keys)
    for seed, key in enumerate(keys):
        assert driver("get", key, None, 0, 10).words[1] == sha256(pattern(10, seed))


def test_listing_goes_on_behind_a_key(driver):
    keys = [f"temp/many/{n:04}" for n in range(1003)]
    for key in keys:
        driver("put", key, "text/plain", 0, 0)
    count, more, *first = driver("list", "temp/many/", "").words
    assert (count, more) == ("1000", "more")
    count, more, *rest = driver("list", "temp/many/", first[0::3][-1]).words
    assert (count, more) == ("3", "all")
    assert first[0::3] + rest[0::3] == keys
    assert driver("list", "temp/none/", "").words == ["0", "all"]


def test_multipart_upload_makes_the_object(driver):
    key = "audio/u/parts.wav"
    upload = driver("begin", key, "audio/wav").words[0]
    driver("part", key, upload, 2, 1000, 2)
    driver("part", key, upload, 1, PART, 9)
    etag = driver("part", key, upload, 1, PART, 1).words[0]  # again: the last one counts
    count, *parts = driver("parts", key, upload).words
    assert count == "2" and parts[0:3] == ["1", etag, str(PART)] and parts[5] == "1000"
    driver("complete", key, upload, *parts)
    size, content_type, whole_etag, _ = driver("head", key).words
    assert (int(size), content_type) == (PART + 1000, "audio/wav")
    assert whole_etag.endswith('-2"')
    got, digest = driver("get", key, None, 0, PART + 1000).words
    assert digest == sha256(pattern(PART, 1) + pattern(1000, 2)) and int(got) == PART + 1000
    driver("parts", key, upload, expect="NOT_FOUND")
    driver.send("complete", key, upload, *parts)  # S3 itself may say OK again
    assert driver.answer().error in ("OK", "NOT_FOUND")
    assert driver("head", key).words[2] == whole_etag


def test_parts_of_ours_are_held_to_their_checksum(driver, gateway):
    """By S3 itself: it refuses a body that came damaged, and knows the parts' sums of the whole."""
    key = "audio/u/ours.wav"
    upload = driver("begin-ours", key, "audio/wav").words[0]
    first, crc = driver("part", key, upload, 1, PART, 1).words
    last, last_crc = driver("part", key, upload, 2, 1000, 2).words
    bucket = gateway.client()
    part = {"Bucket": s3lab.BUCKET, "Key": key, "UploadId": upload, "PartNumber": 1}
    with pytest.raises(botocore.exceptions.ClientError, match="BadDigest"):
        bucket.upload_part(**part, Body=pattern(PART, 1)[:-1] + b"?", ChecksumCRC32C=crc)
    assert bucket.upload_part(**part, Body=pattern(PART, 1), ChecksumCRC32C=crc)["ETag"] == first
    driver("complete-ours", key, upload, 1, first, PART, last_crc, 2, last, 1000, last_crc, expect="CONFLICT")
    driver("complete-ours", key, upload, 1, first, PART, crc, 2, last, 1000, last_crc)
    told = bucket.head_object(Bucket=s3lab.BUCKET, Key=key, ChecksumMode="ENABLED")
    assert told["ChecksumCRC32C"].endswith("-2")
    assert driver("get", key, None, 0, PART + 1000).words[1] == sha256(pattern(PART, 1) + pattern(1000, 2))


def test_parts_that_make_no_object_are_a_conflict(driver):
    key = "audio/u/bad.wav"
    upload = driver("begin", key, "audio/wav").words[0]
    small = driver("part", key, upload, 1, 1000, 1).words[0]
    last = driver("part", key, upload, 2, 1000, 2).words[0]
    driver("complete", key, upload, 1, '"00000000000000000000000000000000"', 1000, 2, last, 1000,
           expect="CONFLICT")
    driver("complete", key, upload, 1, small, 1000, 2, last, 1000, expect="CONFLICT")
    driver("abort", key, upload)
    driver("abort", key, upload)
    driver("head", key, expect="NOT_FOUND")


def test_more_than_a_page_of_parts_is_listed(driver):
    key = "audio/u/long.wav"
    upload = driver("begin", key, "audio/wav").words[0]
    for number in range(1, 1004):
        driver("part", key, upload, number, 1, number % 7)
    count, *parts = driver("parts", key, upload).words
    assert count == "1003" and parts[0::3] == [str(n) for n in range(1, 1004)]
    driver("abort", key, upload)


def test_connections_are_kept(driver, gateway):
    def sockets():
        lines = open(f"/proc/{driver._process.pid}/net/tcp", encoding="ascii").read().splitlines()
        remote = f"0100007F:{gateway.port:04X}"
        return sum(1 for line in lines if line.split()[2] == remote and line.split()[3] == "01")
    driver("ping", 1000)
    before = sockets()
    for _ in range(20):
        driver("ping", 1000)
    assert sockets() == before


# Presigned URLs, by nginx

def put(url, body, **headers):
    """PUT with exactly these headers and Content-Length; the status."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return requests.put(url, data=body, headers=headers, timeout=20).status_code


def test_upload_url_takes_only_what_was_signed(driver):
    key = "audio/u/upload.mp3"
    url = driver.presign("PUT", key, "audio/mpeg", 1000)
    body = pattern(1000, 5)
    assert put(url, body, Content_Type="audio/wav") == 403
    assert put(url, body) == 403
    assert put(url, body[:-1], Content_Type="audio/mpeg") == 403
    assert put(url, body + b"x", Content_Type="audio/mpeg") == 403
    assert put(url.replace("upload.mp3", "other.mp3"), body, Content_Type="audio/mpeg") == 403
    assert put(url.replace("X-Amz-Expires=900", "X-Amz-Expires=901"), body,
               Content_Type="audio/mpeg") == 403
    assert requests.get(url, timeout=20).status_code == 403
    driver("head", key, expect="NOT_FOUND")
    assert put(url, body, Content_Type="audio/mpeg") == 200
    assert driver("head", key).words[:2] == ["1000", "audio/mpeg"]


def test_url_ends_with_its_time(driver):
    driver("put", "audio/u/short.mp3", "audio/mpeg", 10, 1)
    url = driver.presign("GET", "audio/u/short.mp3", ttl=1)
    assert requests.get(url, timeout=20).status_code == 200
    wait_until(lambda: requests.get(url, timeout=20).status_code == 403, 10, "the URL to end")


def test_part_url_takes_a_part(driver):
    key = "audio/u/url-parts.wav"
    upload = driver("begin", key, "audio/wav").words[0]
    bodies = [pattern(PART, 3), pattern(PART, 4), pattern(77, 5)]

    def send(number):
        url = driver_urls[number - 1]
        return requests.put(url, data=bodies[number - 1], timeout=20).status_code
    driver_urls = [driver.presign("PUT", key, None, len(bodies[n - 1]), upload, n)
                   for n in (1, 2, 3)]
    assert put(driver_urls[2], b"too long for it" * 100) == 403
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        assert list(pool.map(send, [1, 2, 3])) == [200, 200, 200]
    driver("complete", key, upload)
    assert driver("get", key, None, 0, 2 * PART + 77).words[1] == sha256(b"".join(bodies))


def test_download_url_gives_ranges(driver):
    driver("put", "audio/u/range.mp3", "audio/mpeg", 5000, 6)
    url = driver.presign("GET", "audio/u/range.mp3")
    reply = requests.get(url, headers={"Range": "bytes=100-199"}, timeout=20)
    assert reply.status_code == 206
    assert reply.headers["Content-Range"] == "bytes 100-199/5000"
    assert reply.content == pattern(5000, 6)[100:200]


@pytest.mark.parametrize("name", NAMES)
def test_download_is_saved_under_any_name(driver, name):
    driver("put", "audio/u/named.mp3", "audio/mpeg", 10, 6)
    reply = requests.get(driver.presign("GET", "audio/u/named.mp3", name=name), timeout=20)
    assert reply.status_code == 200
    header = reply.headers["Content-Disposition"]
    assert header.isascii() and header.startswith('attachment; filename="')
    plain, star, encoded = header.partition("; filename*=UTF-8''")
    assert '"' not in plain[len('attachment; filename="'):-1]
    found = urllib.parse.unquote(encoded) if star else plain.split('"')[1]
    assert found == re.sub(r"[/\\]", "_", name)
    assert email.utils.unquote(plain.split("=", 1)[1]) != ""


def test_hostile_download_names_add_no_header(told):
    # The driver's lines cannot carry CR and LF; other control characters can.
    url = told.presign("GET", "k", name="a\x0bb\x7f\x1b[31m.mp3")
    assert query_of(url)["response-content-disposition"] == 'attachment; filename="a_b__[31m.mp3"'


# Faults

def test_frozen_server_costs_no_more_than_the_deadline(driver, gateway):
    driver("put", "audio/u/frozen.mp3", "audio/mpeg", 1000, 1)
    driver("deadline", 700)
    gateway.freeze()
    try:
        for words in [("head", "audio/u/frozen.mp3"), ("get", "audio/u/frozen.mp3", None, 0, 10),
                      ("put", "audio/u/frozen2.mp3", "audio/mpeg", MIB, 1)]:
            result = driver(*words, expect="DEPENDENCY_UNAVAILABLE")
            assert 600 <= result.ms < 1500, result
        assert driver("ping", 200, expect="DEPENDENCY_UNAVAILABLE").ms < 600
    finally:
        gateway.thaw()
        driver("deadline", 30000)
    assert driver("get", "audio/u/frozen.mp3", None, 0, 10).words[0] == "10"


def test_killed_server_is_an_error_and_its_return_is_noticed(driver, gateway):
    driver("put", "audio/u/killed.mp3", "audio/mpeg", 1000, 1)
    gateway.kill()
    try:
        result = driver("head", "audio/u/killed.mp3", expect="DEPENDENCY_UNAVAILABLE")
        assert result.count == 3 and result.ms < 2000 and "http" in result.cause
        assert driver("ping", 500, expect="DEPENDENCY_UNAVAILABLE").count == 1
    finally:
        gateway.start()
    assert driver("head", "audio/u/killed.mp3").words[0] == "1000"


def test_server_that_returns_meanwhile_is_not_seen_as_down(program, gateway):
    patient = s3lab.Driver(program, S3_ENDPOINT=gateway.url, S3_RETRIES=10, S3_BACKOFF_MS=200,
                           S3_BACKOFF_MAX_MS=1000)
    patient("put", "audio/u/back.mp3", "audio/mpeg", 1000, 1)
    gateway.kill()
    patient.send("head", "audio/u/back.mp3")
    gateway.start()
    result = patient.answer()
    assert result.error == "OK" and result.words[0] == "1000"
    patient.close()


def error(status, code):
    """An S3 error."""
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code></Error>".encode()
    return status, {"Content-Type": "application/xml"}, body


def head_of(size, etag):
    """The answer to HEAD of an object."""
    return 200, {"Content-Length": str(size), "ETag": etag, "Content-Type": "audio/wav",
                 "Last-Modified": "Mon, 23 Nov 2026 14:02:23 GMT"}, b""


def test_passing_failures_are_tried_again(told, peer):
    found = head_of(5, '"x"')
    for failure in [error(503, "SlowDown"), error(500, "InternalError"), (502, {}, b"<html>"),
                    (429, {}, b""), "lost"]:
        peer.answers(failure, failure, found)
        assert told("head", "k").words[0] == "5"
        assert len(peer.requests) == 3
    peer.answers(error(400, "RequestTimeout"), (200, {"ETag": '"e"'}, b""))
    assert told("put", "k", "a/b", 10, 1).count == 2


def test_final_failures_are_not_tried_again(told, peer):
    for failure, name in [(error(403, "SignatureDoesNotMatch"), "DEPENDENCY_UNAVAILABLE"),
                          (error(404, "NoSuchKey"), "NOT_FOUND"),
                          (error(404, "NoSuchBucket"), "DEPENDENCY_UNAVAILABLE"),
                          (error(501, "NotImplemented"), "DEPENDENCY_UNAVAILABLE"),
                          ((302, {"Location": peer.url}, b""), "DEPENDENCY_UNAVAILABLE")]:
        peer.answers(failure)
        result = told("get", "k", None, 0, 10, expect=name)
        assert len(peer.requests) == 1 and "s3 GET k: " in result.cause


def test_tries_and_time_are_bounded(program, told, peer):
    peer.answers(error(503, "SlowDown"))
    result = told("put", "k", "a/b", 10, 1, expect="DEPENDENCY_UNAVAILABLE")
    assert len(peer.requests) == result.count == 4
    slow = s3lab.Driver(program, S3_ENDPOINT=peer.url, S3_RETRIES=10, S3_BACKOFF_MS=60000,
                        S3_BACKOFF_MAX_MS=60000)
    slow("deadline", 300)
    assert slow("head", "k", expect="DEPENDENCY_UNAVAILABLE").ms < 600
    slow.close()


def test_answer_that_is_not_the_range_is_refused(told, peer):
    whole = pattern(100, 1)
    for answer in [(200, {}, whole[:10]), (200, {}, whole),
                   (206, {"Content-Range": "bytes 0-9/100"}, whole[:10]),
                   (206, {}, whole[:10])]:
        peer.answers(answer)
        told("get", "k", None, 5, 10, expect="DEPENDENCY_UNAVAILABLE")
    peer.answers((206, {"Content-Range": "bytes 5-14/100", "Content-Length": "20"}, whole[5:15]),
                 (206, {"Content-Range": "bytes 5-14/100"}, whole[5:15]))
    assert told("get", "k", None, 5, 10).words == ["10", sha256(whole[5:15])]


DONE = (200, {}, b"<CompleteMultipartUploadResult><ETag>x</ETag></CompleteMultipartUploadResult>")
PARTS = (1, '"a"', 500, 2, '"b"', 7)


def test_completion_whose_reply_was_lost_is_recognised(told, peer):
    gone = error(404, "NoSuchUpload")
    peer.answers("lost", gone, head_of(507, '"abc-2"'))
    told("complete", "k", "u", *PARTS)
    assert [r.method for r in peer.requests] == ["POST", "POST", "HEAD"]
    for other in [head_of(506, '"abc-2"'), head_of(507, '"abc-3"'), head_of(507, '"abc"'),
                  error(404, "NoSuchKey")]:
        peer.answers("lost", gone, other)
        told("complete", "k", "u", *PARTS, expect="WRITE_UNKNOWN")
    peer.answers(gone)
    told("complete", "k", "u", *PARTS, expect="NOT_FOUND")
    assert len(peer.requests) == 1


def test_completion_is_believed_only_when_it_says_so(told, peer):
    peer.answers((200, {}, error(200, "InternalError")[2]), DONE)
    told("complete", "k", "u", *PARTS)
    assert len(peer.requests) == 2
    for body in [b"", b"<html></html>", DONE[2][:-5], error(200, "AccessDenied")[2]]:
        peer.answers((200, {}, body))
        told("complete", "k", "u", *PARTS, expect="DEPENDENCY_UNAVAILABLE")
    peer.answers((200, {}, error(200, "InvalidPart")[2]))
    told("complete", "k", "u", *PARTS, expect="CONFLICT")


def test_hostile_documents_are_refused(told, peer):
    bomb = b"<!DOCTYPE a [<!ENTITY a 'xxxxxxxxxx'><!ENTITY b '&a;&a;&a;&a;'>]><ListBucketResult>&b;"
    for body in [bomb, b"<ListBucketResult>" + b"<Contents><Key>k</Key></Contents>" * 1001,
                 b"<x>" * 100000, b"\xff\xfe", b"<ListBucketResult>" + b" " * (5 * MIB)]:
        peer.answers((200, {}, body))
        told("list", "", "", expect="DEPENDENCY_UNAVAILABLE")
        told("parts", "k", "u", expect="DEPENDENCY_UNAVAILABLE")
