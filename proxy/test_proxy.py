"""What the proxy alone promises: headers, limits, problem pages, doors that stay shut."""

import http.client
import json
import os
import re
import pathlib
import socket
import sys
import time
import urllib.parse

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "deploy"))
from stack import edge  # noqa: E402  (deploy/stack, found by the path above)

URL = urllib.parse.urlsplit(os.environ.get("MB_URL", "http://127.0.0.1:8080"))
S3_URL = urllib.parse.urlsplit(os.environ.get("MB_S3_URL", "http://127.0.0.1:8081"))
METRICS_URL = urllib.parse.urlsplit(os.environ.get("MB_METRICS_URL", "http://127.0.0.1:8082"))
ID = re.compile(r"[A-Za-z0-9._-]{8,64}")


class Reply:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    def all(self, name):
        return [v for n, v in self.headers if n.lower() == name.lower()]

    def one(self, name):
        values = self.all(name)
        assert len(values) == 1, f"{name}: {values}"
        return values[0]


def ask(method, path, headers=None, body=None, url=URL):
    """One request whose path is sent as it is."""
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=10)
    try:
        connection.putrequest(method, path, skip_accept_encoding=True)
        for name, value in (headers or {}).items():
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        reply = connection.getresponse()
        return Reply(reply.status, reply.getheaders(), reply.read())
    finally:
        connection.close()


def raw(data, url=URL):
    """Send bytes; the one reply to them."""
    with socket.create_connection((url.hostname, url.port), timeout=10) as s:
        try:
            s.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass  # refused before all was sent
        reply = http.client.HTTPResponse(s)
        reply.begin()
        return Reply(reply.status, reply.getheaders(), reply.read())


def assert_problem(reply, status, code):
    assert reply.status == status, reply.body
    assert reply.one("Content-Type") == "application/problem+json"
    problem = json.loads(reply.body)
    assert set(problem) == {"type", "title", "status", "detail", "instance", "code", "requestId"}
    assert problem["type"] == f"/problems/{code}"
    assert problem["code"] == code
    assert problem["status"] == status
    assert problem["title"] and problem["detail"]
    assert problem["instance"] == problem["requestId"] == reply.one("X-Request-Id")
    assert ID.fullmatch(problem["requestId"])
    if status in (429, 503):
        assert int(reply.one("Retry-After")) >= 1


@pytest.mark.parametrize("path", ["/", "/index.html", "/apix", "/problem/404", "/api", "/nginx"])
def test_all_outside_api_is_not_found(path):
    assert_problem(ask("GET", path), 404, "not_found")


@pytest.mark.parametrize("path", ["/metrics", "/metrics?x=1", "/metrics/", "/%6detrics"])
def test_metrics_are_not_there_in_public(path):
    assert_problem(ask("GET", path), 404, "not_found")


@pytest.mark.parametrize("path", [
    "/api/../metrics", "/api/%2e%2e/metrics", "/api/%2E./metrics", "/api/..%2fmetrics",
    "/api/./system/health", "//api/system/health", "/api//metrics", "/api/x%5c..%5cy",
    "/metrics/../api/system/health", "/api/%00", "/..", "/api/system/health#x"])
def test_odd_paths_are_refused(path):
    assert_problem(ask("GET", path), 400, "bad_request")


def test_dots_in_a_query_or_a_name_are_no_odd_path():
    assert ask("GET", "/api/system/health?x=/../y//z").status != 400 \
        or b"well-formed" not in ask("GET", "/api/system/health?x=/../y//z").body
    assert ask("GET", "/api/..a/.b.c").status == 404


@pytest.mark.parametrize("path", ["/", "/api/nothing", "/api/system/health"])
def test_security_headers_are_on_every_reply_once(path):
    reply = ask("GET", path)
    assert reply.one("X-Content-Type-Options") == "nosniff"
    assert reply.one("X-Frame-Options") == "DENY"
    assert reply.one("Referrer-Policy") == "no-referrer"
    assert reply.one("Content-Security-Policy").startswith("default-src 'none'")
    assert not any(re.search(r"\d", value) for value in reply.all("Server"))


@pytest.mark.parametrize("path", ["/", "/api/system/health", "/api/nothing"])
def test_a_well_formed_request_id_is_kept(path):
    assert ask("GET", path, {"X-Request-Id": "Client.id-1_2"}).one("X-Request-Id") == \
        "Client.id-1_2"


@pytest.mark.parametrize("given", ["short", "a" * 65, 'quote"quote', "two words", "semi;colon", ""])
def test_another_request_id_is_replaced(given):
    told = ask("GET", "/api/nothing", {"X-Request-Id": given}).one("X-Request-Id")
    assert told != given
    assert ID.fullmatch(told)


def test_api_answers_with_the_same_request_id_in_body_and_header():
    reply = ask("GET", "/api/nothing", {"X-Request-Id": "both-places-1"})
    problem = json.loads(reply.body)
    assert problem["requestId"] == problem["instance"] == reply.one("X-Request-Id") == \
        "both-places-1"


@pytest.mark.parametrize("line", [b"GARBAGE\r\n\r\n", b"GET / HTTP/3.0\r\nHost: x\r\n\r\n",
                                  b"GET /api/x HTTP/1.1\r\n\r\n",
                                  b"GET /api/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: y\r\n\r\n",
                                  b"GET /%zz HTTP/1.1\r\nHost: x\r\n\r\n",
                                  b"GET /api/x HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
                                  b"GET /api/x HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n"
                                  b"Content-Length: 2\r\n\r\n"])
def test_malformed_requests_are_refused(line):
    assert_problem(raw(line), 400, "bad_request")


def test_a_long_address_is_refused():
    assert_problem(ask("GET", "/api/" + "a" * 9000), 414, "uri_too_long")


def test_a_long_header_field_is_refused():
    assert_problem(ask("GET", "/api/x", {"X-Long": "a" * 9000}), 431, "headers_too_large")


def test_many_header_fields_are_refused():
    fields = {f"X-Field-{n}": "a" * 4000 for n in range(20)}
    assert_problem(ask("GET", "/api/x", fields), 431, "headers_too_large")


def test_a_large_body_is_refused_before_it_is_sent():
    reply = raw(b"POST /api/auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                b"Content-Length: 99999999\r\nConnection: close\r\n\r\n")
    assert_problem(reply, 413, "payload_too_large")


def test_a_large_chunked_body_is_refused():
    data = b"POST /api/auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" \
           b"Transfer-Encoding: chunked\r\n\r\n" + b"10000\r\n" + b" " * 65536 + b"\r\n" \
           b"10000\r\n" + b" " * 65536 + b"\r\n0\r\n\r\n"
    assert_problem(raw(data), 413, "payload_too_large")


@pytest.mark.parametrize("method", ["TRACE", "CONNECT"])
def test_trace_and_connect_are_not_allowed(method):
    reply = ask(method, "/api/system/health")
    assert_problem(reply, 405, "method_not_allowed")
    assert "GET" in reply.one("Allow")


def test_a_head_request_gets_no_body():
    reply = ask("HEAD", "/nothing")
    assert reply.status == 404
    assert reply.body == b""


def test_a_slow_header_does_not_hold_a_connection():
    begun = time.monotonic()
    with socket.create_connection((URL.hostname, URL.port), timeout=20) as s:
        s.sendall(b"GET /api/system/health HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        try:
            while s.recv(4096):
                pass
        except ConnectionResetError:
            pass
    assert 5 <= time.monotonic() - begun <= 15


def test_a_slow_body_does_not_hold_a_connection():
    begun = time.monotonic()
    with socket.create_connection((URL.hostname, URL.port), timeout=20) as s:
        s.sendall(b"POST /api/auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                  b"Content-Length: 20\r\n\r\n{")
        try:
            while s.recv(4096):
                pass
        except ConnectionResetError:
            pass
    assert 5 <= time.monotonic() - begun <= 15


def test_the_inner_port_shows_metrics_and_status_only():
    assert ask("GET", "/metrics", url=METRICS_URL).status == 200
    assert ask("GET", "/api/system/status", url=METRICS_URL).status == 200
    assert_problem(ask("GET", "/api/system/health", url=METRICS_URL), 404, "not_found")
    assert_problem(ask("GET", "/", url=METRICS_URL), 404, "not_found")


def test_s3_lets_a_browser_ask_first():
    reply = ask("OPTIONS", "/maxbooster-uploads/audio/x", {
        "Origin": "https://app.example.com", "Access-Control-Request-Method": "PUT",
        "Access-Control-Request-Headers": "content-type"}, url=S3_URL)
    assert reply.status in (200, 204)
    assert reply.one("Access-Control-Allow-Origin") in ("*", "https://app.example.com")
    assert "PUT" in reply.one("Access-Control-Allow-Methods")


def test_s3_refuses_strangers():
    assert ask("GET", "/", url=S3_URL).status == 403
    assert ask("PUT", "/maxbooster-uploads/audio/x", body=b"x", url=S3_URL).status == 403


def test_s3_hides_its_own_health():
    assert_problem(ask("GET", "/health", url=S3_URL), 404, "not_found")


@pytest.mark.parametrize("most", [1, 20, 100, 1000, 65536, 1000000000])
@pytest.mark.parametrize("window_ms", [100, 1000, 59999, 60000, 86400000])
def test_the_edge_is_never_tighter_than_the_limiter(most, window_ms):
    files = edge.texts(most, window_ms)
    rate = int(re.search(r" rate=(\d+)r/m;$", files["zone.conf"]).group(1))
    burst = int(re.search(r" burst=(\d+) nodelay;$", files["requests.conf"]).group(1))
    connections = int(re.search(r" (\d+);$", files["connections.conf"]).group(1))
    assert rate >= 1
    assert rate * window_ms >= most * 60000
    assert burst >= most
    assert min(most, edge.CONNECTIONS_MAX) <= connections <= edge.CONNECTIONS_MAX


def test_limits_that_nginx_refuses_are_taken_back(tmp_path, monkeypatch):
    (tmp_path / "edge").mkdir()
    before = edge.texts(10, 1000)
    edge.write(tmp_path / "edge", before)
    monkeypatch.setenv("RATE_LIMIT_MAX", "20")
    monkeypatch.setenv("RATE_LIMIT_WINDOW_MS", "1000")
    assert "nginx refuses" in edge.main(str(tmp_path / "edge"))  # there is no nginx.conf
    assert edge.read(tmp_path / "edge", before) == before
    monkeypatch.setattr(edge, "have_them_read", lambda *_: None)
    assert edge.main(str(tmp_path / "edge")) is None
    assert edge.read(tmp_path / "edge", before) == edge.texts(20, 1000)


def test_s3_tells_why_it_refuses_a_large_body():
    body = b"x" * (8 << 20)
    path = "/maxbooster-uploads/audio/x?X-Amz-Signature=bad"
    assert {ask("PUT", path, body=body, url=S3_URL).status for _ in range(20)} == {400}
