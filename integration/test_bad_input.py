"""Malformed input of every kind: the right refusal, and everything alive afterwards."""
import collections
import json
import socket
import threading

import pytest

from harness import fastcgi, rawhttp
from harness.client import patiently
from harness.waits import wait_until

ME = "/api/auth/me"
LOGIN = "/api/auth/login"


@pytest.fixture(autouse=True)
def alive(stack):
    """The same API processes serve before and after."""
    before = {p.pid for p in stack.api_workers()}
    yield
    stack.client().get("/api/system/health", expect=200)
    assert {p.pid for p in stack.api_workers()} == before, "an API process died"


# JSON

def deep(n):
    """n arrays within each other."""
    return "[" * n + "]" * n


@pytest.mark.parametrize("body", [
    "{", "}", "[", '{"name":"x"', '{"name":"x"}}', '{"name":"x"} {"name":"y"}', '{"name":"x"}\x00',
    '{"name":"x",}',
    "{name:'x'}", "{'name':'x'}", '{"name":x}', '{"name":"x"}//', '/* */{"name":"x"}',
    '{"name":"a\nb"}', '{"name":"\\x41"}',
    '{"name":"\\u12"}', '{"name":"\\ud800"}', '{"name":"x","name":"y"}', '{"a":{"b":1,"b":2}}',
    '{"n":01}', '{"n":+1}',
    '{"n":.5}', '{"n":1.}', '{"n":NaN}', '{"n":Infinity}', '{"n":0x10}', '{"n":tru}', '{"n":True}',
    '{"name":"\\u0000"',
    '\ufeff{"name":"x"}', '{"a":' + deep(17) + "}", '{"a":' + deep(5000) + "}", '{"a":' * 3000,
    '"' * 999, ",", " ", "\x00",
    '{"name":"x"\x0c}', '{"name" "x"}', '{"name":"x" "y"}', '{1:"x"}', "{\"name\":\"x\u2028\""])
def test_what_is_no_json_is_400(client, body):
    reply = client.patch(ME, data=body.encode(), expect=400)
    assert reply.code == "bad_json"


@pytest.mark.parametrize("body", [
    b'{"name":"\xff"}', b'{"name":"\xc0\xaf"}', b'{"name":"\xed\xa0\x80"}',
    b'{"name":"\xf5\x80\x80\x80"}',
    b'{"name":"\xe2\x82"}', b'{"n\x80me":"x"}', b"\xff\xfe{\x00}\x00", b'{"name":"\xf0\x9f\x8e"}'])
def test_invalid_utf8_is_400(client, body):
    assert client.patch(ME, data=body, expect=400).code == "bad_json"


@pytest.mark.parametrize("body", ["[]", '"name"', "7", "null", "true", "[{}]"])
def test_json_that_is_no_object_is_refused(client, body):
    client.patch(ME, data=body, expect=(400, 422))


@pytest.mark.parametrize("value", ["null", "1", "1.5", "true", "[]", "{}",
                                   "99999999999999999999999", "-0", "1e999"])
def test_a_member_of_another_type_is_named(client, value):
    reply = client.patch("/api/auth/me", data='{"name":%s}' % value, expect=(200, 400, 422))
    if value == "null":
        return
    assert reply.status in (400, 422)
    if reply.status == 422:
        assert reply.violations == {("name", "type")}


def test_a_nul_within_a_string_is_no_end_of_it(client):
    reply = client.patch(ME, data='{"name":"admin\\u0000x"}', expect=422)
    assert {field for field, _ in reply.violations} == {"name"}


def test_an_unknown_member_is_refused_whatever_its_name(client):
    for name in ("x", "__proto__", "name ", "Name", "", "a" * 5000, "ключ", "na\\u006de2", "$ref"):
        reply = client.patch(ME, data='{"%s":1}' % name, expect=422)
        assert {code for _, code in reply.violations} == {"unknown"}, name


def test_a_nul_in_a_member_name_is_refused(client):
    client.patch(ME, data='{"name\\u0000":"x"}', expect=(400, 422))


def test_many_violations_are_told_up_to_a_bound(client):
    reply = client.patch(ME, {f"field{n}": n for n in range(2000)}, expect=422)
    assert 1 <= len(reply.json["errors"]) <= 32


def test_an_escaped_member_name_is_the_same_name(client):
    client.patch(ME, data='{"na\\u006de":"Same"}', expect=200)
    assert client.get(ME).json["name"] == "Same"


# Types, then sizes, then fields

def test_a_body_of_another_type_is_415_before_anything_else(stack, client):
    large = "x" * (int(stack.env.get("BODY_MAX_BYTES", "65536")) + 5000)
    for kind in ("text/plain", "application/x-www-form-urlencoded",
                 "multipart/form-data; boundary=x", "text/json",
                 "application/jsonp", "application/json; charset=utf-16", "json", ""):
        for body in ('{"name":"x"}', '{"name":', large):
            reply = client.patch(ME, data=body, headers={"Content-Type": kind})
            assert reply.status == 415, (kind, len(body), reply)
    assert client.get(ME).json["name"] == "Test Artist"


@pytest.mark.parametrize("kind", ["application/json", "Application/JSON",
                                  "application/json; charset=utf-8",
                                  "application/json;charset=UTF-8",
                                  'application/json; charset="utf-8"'])
def test_json_may_be_named_in_these_ways(client, kind):
    client.patch(ME, data='{"name":"x"}', headers={"Content-Type": kind}, expect=200)


def test_a_body_may_be_as_large_as_configured_and_no_larger(stack, client):
    most = int(stack.env.get("BODY_MAX_BYTES", "65536"))
    body = json.dumps({"name": "x"})
    client.patch(ME, data=body + " " * (most - len(body)), expect=200)
    for more in (1, 100, 10_000_000):
        reply = client.patch(ME, data=body + " " * (most - len(body) + more), expect=413)
        assert reply.code == "payload_too_large"


def test_large_bodies_that_are_refused_unread_break_no_other_request(stack, user):
    """What is left unread on a kept connection must not be taken for the next request."""
    answers = collections.Counter()

    def one():
        client = stack.client(token=user.client.token)
        for _ in range(150):
            for body in ("x" * 60000, "{}"):
                reply = client.patch(ME, data=body, headers={"Content-Type": "text/plain"})
                answers[reply.status] += 1
    threads = [threading.Thread(target=one) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {415: 1800}


def test_size_is_judged_before_fields(stack, client):
    most = int(stack.env.get("BODY_MAX_BYTES", "65536"))
    client.patch(ME, data="{" * (most + 1), expect=413)


# Ids, paths, queries

ID = "9b2f61d4-0199-8a4b-9c3d-7f6a5b4c3d2e"


@pytest.mark.parametrize("bad", [
    ID.upper(), ID[:-1], ID + "0", ID.replace("-", ""), "{" + ID + "}", ID.replace("8a4b", "4a4b"),
    "0", "-1", "1;DROP", "..",
    ".", "%2e%2e", "..%2f..", "%00", ID + "%00", "%ff%fe", "*", "%2a", ID + "%20", "%E2%80%AE",
    "a" * 300, "'", "%27"])
@pytest.mark.parametrize("path", ["/api/audio/{}", "/api/jobs/{}", "/api/auth/sessions/{}",
                                  "/api/uploads/multipart/{}"])
def test_what_is_no_id_is_404_or_400(client, path, bad):
    method = "DELETE" if "sessions" in path else "GET"
    reply = client.request(method, path.format(bad))
    assert reply.status in (400, 404, 405), reply
    assert reply.status != 405 or bad in (".", "..", "%2e%2e", "..%2f..")


@pytest.mark.parametrize("path", ["/api/%", "/api/%2", "/api/%zz", "/api/audio/%G1",
                                  "/api/audio?cursor=%", "/api/audio?%=1",
                                  "/api/users/search?q=%ff", "/api/users/search?q=%c0%80",
                                  "/api/users/search?q=%00",
                                  "/api/audio?limit=%u0031"])
def test_broken_percent_encoding_is_400(stack, client, path):
    request = (f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
               f"Authorization: Bearer {client.token}\r\n\r\n")
    reply = rawhttp.exchange(stack.url, request.encode(), path=path)
    assert reply.status in (400, 422), reply


def test_a_long_path_and_a_long_query_are_refused(client):
    for path in ("/api/" + "a" * 4000, "/api/" + "a/" * 2000):
        assert client.get(path).status in (400, 404, 414)
    assert client.get("/api/" + "a" * 40000).status == 414
    assert client.get("/api/audio?limit=" + "1" * 40000).status == 414
    assert client.get("/api/audio?" + "&".join(f"p{n}=1" for n in range(300))).status in (400, 422)


def test_an_encoded_path_is_the_same_path_or_refused(client):
    for path in ("/api/%61uth/me", "/%61pi/auth/me"):
        assert client.get(path).status in (200, 400, 404)


# Header fields

@pytest.mark.parametrize("cookie", [
    "session=", "session", "=", ";;;", "session=a; session=b", "session=\"x\"",
    "session=" + "A" * 7000, "a=b; " * 300,
    "session=%00", "session=\u00e4", "__Host-session=x", "sessionx=1", "session =1",
    "session=../../x", "session={}*:"])
def test_odd_cookies_are_no_session(stack, cookie):
    reply = stack.client().get(ME, headers={"Cookie": cookie.encode("latin-1")})
    assert reply.status in (401, 400, 431), reply


def test_a_good_cookie_is_found_among_others(stack, user):
    cookie = f"theme=dark; session={user.client.token}; lang=de"
    stack.client().get(ME, headers={"Cookie": cookie}, expect=200)


def test_huge_headers_are_refused(client):
    assert client.get(ME, headers={"X-Large": "x" * 60000}).status in (400, 431)
    many = {f"X-Field-{n}": "y" * 50 for n in range(1500)}
    assert client.get(ME, headers=many).status in (400, 431)


def test_many_small_headers_are_refused_or_served(client):
    reply = client.get(ME, headers={f"X-F{n}": "y" for n in range(150)})
    assert reply.status in (200, 400, 431)


@pytest.mark.parametrize("value", ["", "v1", '"v1', "*,", '"' * 100, "W/\"v1\"", '"v999"',
                                   "x" * 3000])
def test_an_odd_if_match_never_matches(client, value):
    reply = client.patch(ME, {"name": "X"}, headers={"If-Match": value})
    assert reply.status in (412, 400) or (value in ("", "*,") and reply.status == 200), reply


@pytest.mark.parametrize("value", ["", "00-x", "00-" + "0" * 32 + "-" + "0" * 16 + "-01",
                                   "ff-" + "1" * 32 + "-" + "2" * 16 + "-01",
                                   "00-" + "A" * 32 + "-" + "2" * 16 + "-01", "x" * 4000])
def test_an_odd_traceparent_is_left_alone(client, value):
    client.get(ME, headers={"traceparent": value}, expect=200)


@pytest.mark.parametrize("value", ["1.2.3", "::::", "1.2.3.4, ", ",,,", "localhost", "1.2.3.4:80",
                                   "x" * 2000, "10.0.0.1, evil\"",
                                   "[::1]", "999.1.1.1"])
def test_an_odd_forwarded_address_is_no_address(stack, value):
    stack.client().get("/api/nothing", headers={"X-Forwarded-For": value}, expect=404)


# Malformed HTTP

GOOD = b"GET /api/system/health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"


@pytest.mark.parametrize("request_bytes", [
    b"\r\n\r\n\r\n", b"GET\r\n\r\n", b"GET /\r\nHost: x",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"GET / HTTP/9.9\r\nHost: x\r\n\r\n", b"GET /api/system/health HTTP/1.1\r\n\r\n",
    b"get /api/system/health HTTP/1.1\r\nHost: x\r\n\r\n",
    GOOD + b"Host: y\r\n\r\n", GOOD + b"No colon\r\n\r\n", GOOD + b"Content-Length: -1\r\n\r\n",
    GOOD + b"Content-Length: x\r\n\r\n",
    GOOD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    GOOD + b"Transfer-Encoding: gzip\r\n\r\n",
    GOOD + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    b"GET /\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /api/../../etc/passwd HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"TRACE / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    b"GET http://evil/api/system/health HTTP/1.1\r\nHost: evil\r\nConnection: close\r\n\r\n",
    b"A" * 100000], ids=range(20))
def test_malformed_http_is_refused_by_a_problem_or_a_closed_connection(stack, request_bytes):
    with rawhttp.connect(stack.url) as connection:
        try:
            connection.sendall(request_bytes)
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        reply = rawhttp.RawReply(rawhttp.read_to_end(connection))
    if reply.status in (0, 200):
        return
    assert 400 <= reply.status < 500, reply
    problem = json.loads(reply.body)
    assert problem["status"] == reply.status, reply
    assert reply.headers["Content-Type"].startswith("application/problem+json")


def test_a_smuggled_second_request_is_not_served(stack):
    inner = b"GET /api/openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"
    length = str(len(inner) + 5).encode()
    request = (b"POST /api/auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
               b"Connection: close\r\nContent-Length: " + length + b"\r\n"
               b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + inner)
    with rawhttp.connect(stack.url) as connection:
        connection.sendall(request)
        data = rawhttp.read_to_end(connection)
    assert data.count(b"HTTP/1.1 ") == 1
    assert b'"openapi"' not in data


def test_a_body_shorter_than_told_is_not_taken(stack, client):
    request = (f"PATCH {ME} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {client.token}\r\n"
               "Content-Type: application/json\r\n"
               "Content-Length: 40\r\nConnection: close\r\n\r\n{\"name\":\"cut\"}").encode()
    with rawhttp.connect(stack.url) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        reply = rawhttp.RawReply(rawhttp.read_to_end(connection))
    assert reply.status in (0, 400, 408), reply
    assert client.get(ME, expect=200).json["name"] == "Test Artist"


def test_slow_bodies_end_in_408_and_hold_up_nobody(stack, client):
    """More slow senders than the API has threads."""
    head = (f"POST {LOGIN} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            "Content-Length: 100\r\nConnection: close\r\n\r\n{").encode()
    slow = [rawhttp.connect(stack.url, timeout=40) for _ in range(48)]
    try:
        for connection in slow:
            connection.sendall(head)
        for _ in range(20):
            reply = client.get(ME, expect=200)
            assert reply.seconds < 5
        first = rawhttp.RawReply(rawhttp.read_to_end(slow[0]))
        assert first.status in (0, 408), first
    finally:
        for connection in slow:
            connection.close()


def test_slow_headers_hold_up_nobody(stack, client):
    slow = [rawhttp.connect(stack.url) for _ in range(40)]
    try:
        for connection in slow:
            connection.sendall(b"GET /api/auth/me HTTP/1.1\r\nHost: x\r\nX-")
        assert client.get(ME, expect=200).seconds < 5
    finally:
        for connection in slow:
            connection.close()


def test_clients_that_go_away_leave_nothing_behind(stack, client):
    request = (f"GET {ME} HTTP/1.1\r\nHost: x\r\n"
               f"Authorization: Bearer {client.token}\r\n\r\n").encode()
    for _ in range(60):
        connection = rawhttp.connect(stack.url)
        connection.sendall(request)
        connection.close()
    assert patiently(lambda: client.get(ME)).status == 200


# FastCGI, without the proxy

PARAMS = {"REQUEST_METHOD": "GET", "REQUEST_URI": "/api/system/health", "QUERY_STRING": "",
          "REMOTE_ADDR": "192.0.2.1",
          "REQUEST_ID": "0123456789abcdef", "CONTENT_LENGTH": "", "CONTENT_TYPE": ""}


@pytest.fixture
def path(stack):
    """The API's unix socket."""
    return stack.fastcgi_socket()


def test_fastcgi_speaks_to_us_by_hand_too(path):
    answer = fastcgi.ask(path, fastcgi.request(PARAMS))
    assert '{"status":"ok"}' in answer


@pytest.mark.parametrize("changes,status", [
    ({"REQUEST_METHOD": ""}, (400, 404, 405)), ({"REQUEST_METHOD": None}, (400, 404, 405)),
    ({"REQUEST_URI": ""}, (400,)),
    ({"REQUEST_URI": None}, (400,)), ({"REQUEST_URI": "api"}, (400,)),
    ({"REQUEST_METHOD": "X" * 5000}, (400, 404, 405)),
    ({"REQUEST_URI": "/" + "a" * 60000}, (404, 414)), ({"REQUEST_URI": b"/\xff\xfe\x80"},
                                                       (400, 404)),
    ({"CONTENT_LENGTH": "-5", "REQUEST_METHOD": "POST", "REQUEST_URI": LOGIN}, (400,)),
    ({"CONTENT_LENGTH": "99999999999999999999", "REQUEST_METHOD": "POST", "REQUEST_URI": LOGIN},
     (400, 413)),
    ({"CONTENT_LENGTH": "4294967297", "REQUEST_METHOD": "POST", "REQUEST_URI": LOGIN,
      "CONTENT_TYPE": "application/json"}, (413,)),
    ({"CONTENT_LENGTH": "5x", "REQUEST_METHOD": "POST", "REQUEST_URI": LOGIN}, (400,)),
    ({"CONTENT_LENGTH": "50", "REQUEST_METHOD": "POST", "REQUEST_URI": LOGIN,
      "CONTENT_TYPE": "application/json"}, (400,)),
    ({"HTTP_COOKIE": b"session=\xff\x00\x01", "REQUEST_URI": ME}, (401,)),
    ({"HTTP_AUTHORIZATION": "Bearer " + "x" * 60000, "REQUEST_URI": ME}, (401,)),
    ({"REMOTE_ADDR": "x" * 5000, "REQUEST_URI": "/api/audio"}, (400, 401)),
    ({"REQUEST_ID": "x" * 5000, "HTTP_X_REQUEST_ID": "\r\nSet-Cookie: a=b"}, (200,)),
    ({f"HTTP_X_{n}": "y" for n in range(3000)}, (200, 431))], ids=range(18))
def test_odd_fastcgi_parameters_get_an_answer(path, changes, status):
    params = {k: v for k, v in (PARAMS | changes).items() if v is not None}
    answer = fastcgi.ask(path, fastcgi.request(params), close_write=False)
    assert answer.startswith("Status: "), answer[:200]
    assert int(answer[8:11]) in status, answer[:300]
    assert "Set-Cookie: a=b" not in answer


@pytest.mark.parametrize("in_pieces", [False, True])
def test_a_body_that_nobody_read_does_not_disturb_the_next_request(path, in_pieces):
    """On a kept connection the rest of a refused request is not the begin of the next one."""
    refused = PARAMS | {"REQUEST_METHOD": "POST", "REQUEST_URI": LOGIN, "CONTENT_LENGTH": "60000",
                        "CONTENT_TYPE": "text/plain"}
    first = fastcgi.request(refused, b"x" * 60000, flags=1)
    second = fastcgi.request(PARAMS, flags=1)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(path)
        for data, status in ((first, 415), (second, 200), (first, 415), (second, 200)):
            cut = len(data) - 8 if in_pieces else len(data)  # the record that ends the body
            connection.sendall(data[:cut])
            connection.sendall(data[cut:])
            answer = b""
            while fastcgi.END not in fastcgi.kinds_of(answer):
                piece = connection.recv(65536)
                assert piece, "the connection was closed"
                answer += piece
            assert fastcgi.stdout_of(answer).startswith(f"Status: {status}")


@pytest.mark.parametrize("data", [
    b"", b"\x00", b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 64, b"\x00" * 4096,
    fastcgi.frame(fastcgi.BEGIN, b""),
    fastcgi.frame(fastcgi.BEGIN, b"\x00\x01\x00" + b"\x00" * 5, version=9),
    fastcgi.frame(99, b"x" * 100),
    fastcgi.frame(fastcgi.PARAMS, b"abc"), fastcgi.request(PARAMS)[:20],
    fastcgi.request(PARAMS)[:60],
    fastcgi.request(PARAMS, role=7), fastcgi.request(PARAMS, request_id=0),
    fastcgi.request(PARAMS, request_id=65535),
    fastcgi.frame(fastcgi.BEGIN, b"\x00\x01\x00" + b"\x00" * 5) + fastcgi.frame(fastcgi.PARAMS,
            b"\xff\xff\xff\xff\x7f"),
    fastcgi.frame(fastcgi.BEGIN, b"\x00\x01\x00" + b"\x00" * 5) + fastcgi.frame(fastcgi.PARAMS,
            b"\x0b", claimed=65535),
    fastcgi.frame(fastcgi.BEGIN, b"\x00\x01\x00" + b"\x00" * 5) + fastcgi.frame(fastcgi.ABORT),
    fastcgi.frame(fastcgi.BEGIN, b"\x00\x01\x00" + b"\x00" * 5) * 50,
    fastcgi.frame(fastcgi.BEGIN, b"\x00\x01\x00" + b"\x00" * 5)
    + fastcgi.frame(fastcgi.PARAMS,
                    fastcgi.length(0x7fffffff) + b"\x01abc") + fastcgi.frame(fastcgi.PARAMS)],
    ids=range(19))
def test_what_is_no_fastcgi_ends_the_connection_and_nothing_else(path, data):
    fastcgi.ask(path, data, timeout=3, close_write=True)
    assert '{"status":"ok"}' in fastcgi.ask(path, fastcgi.request(PARAMS))


def test_half_requests_without_end_hold_up_nobody(stack, path, client):
    """Silent connections, opened by somebody who got at the socket."""
    held = []
    try:
        for _ in range(8):
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(path)
            connection.sendall(fastcgi.request(PARAMS)[:30])
            held.append(connection)
        answers = []
        threads = [threading.Thread(target=lambda: answers.append(client.get(ME).status))
                   for _ in range(4)]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(answers) == 4, 10, "answers")
        assert answers == [200] * 4
    finally:
        for connection in held:
            connection.close()
