"""A client of the API that holds every reply against the contract."""
import contextlib
import functools
import http.cookiejar
import json as json_module
import random
import uuid

import requests

from . import contract, record
from .waits import wait_until

TIMEOUT_S = 30


@functools.lru_cache(maxsize=None)
def the_contract():
    """The contract, read once a process."""
    return contract.Contract()


@functools.lru_cache(maxsize=None)
def the_recorder():
    """The record of this process."""
    return record.Recorder()


def check_and_record(exchange):
    """Record an exchange; an AssertionError tells how it breaks the contract."""
    the_recorder().add(exchange)
    faults = the_contract().faults(exchange)
    assert not faults, "\n".join(faults) + f"\nreply: {exchange['status']} {exchange['body'][:600]}"


def random_address():
    """An address of the benchmark network (RFC 2544), so that no two clients share a limit."""
    return f"198.{random.choice((18, 19))}.{random.randrange(256)}.{random.randrange(1, 255)}"


def random_email():
    """An address that nobody else has."""
    return f"artist-{uuid.uuid4().hex[:20]}@example.org"


class Reply:
    """A reply: status, headers, body."""

    def __init__(self, response):
        self.status = response.status_code
        self.headers = response.headers
        self.content = response.content
        self.seconds = response.elapsed.total_seconds()
        self.set_cookies = response.raw.headers.getlist("Set-Cookie")

    @property
    def text(self):
        """The body as text."""
        return self.content.decode("utf-8", "replace")

    @property
    def json(self):
        """The body as JSON."""
        return json_module.loads(self.content)

    @property
    def code(self):
        """The problem's code."""
        return self.json["code"]

    @property
    def violations(self):
        """{(field, code)} of a validation_failed problem."""
        assert self.code == "validation_failed", self.text
        return {(e["field"], e["code"]) for e in self.json["errors"]}

    def __repr__(self):
        return f"<{self.status} {self.text[:300]}>"


class Client:
    """Sends requests from an address of its own, with the token of a session, if it has one.

    Cookies are never stored: a test that wants one sends it."""

    def __init__(self, base_url, address=None, token=None):
        self.base_url = base_url
        self.address = address or random_address()
        self.token = token
        self._http = requests.Session()
        self._http.trust_env = False
        self._http.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))

    def request(self, method, path, *, json=None, data=None, headers=None, expect=None,
                timeout=TIMEOUT_S, checked=True):
        """Send one request, hold the reply against the contract, and return it.

        A header of value None is left out. expect: the status, or a collection of them."""
        sent = {"X-Forwarded-For": self.address, "User-Agent": "integration/1"}
        if self.token:
            sent["Authorization"] = f"Bearer {self.token}"
        if json is not None:
            data = json_module.dumps(json)
        if data is not None:
            sent["Content-Type"] = "application/json"
        sent.update(headers or {})
        sent = {name: value for name, value in sent.items() if value is not None}
        if isinstance(data, str):
            data = data.encode()
        response = self._http.request(method, self.base_url + path, data=data, headers=sent,
                                      timeout=timeout, allow_redirects=False)
        reply = Reply(response)
        if checked:
            body = None if data is None else data.decode("utf-8", "replace")
            check_and_record(record.exchange_of(method, path, body, reply.status, reply.headers,
                                                reply.text))
        if expect is not None:
            wanted = {expect} if isinstance(expect, int) else set(expect)
            assert reply.status in wanted, f"{method} {path}: wanted {wanted}, got {reply!r}"
        return reply

    def get(self, path, **options):
        """GET."""
        return self.request("GET", path, **options)

    def post(self, path, json=None, **options):
        """POST."""
        return self.request("POST", path, json=json, **options)

    def patch(self, path, json=None, **options):
        """PATCH."""
        return self.request("PATCH", path, json=json, **options)

    def delete(self, path, **options):
        """DELETE."""
        return self.request("DELETE", path, **options)


class User:
    """An account, and a client that is logged in to it."""

    PASSWORD = "a quiet harbour at dawn"

    def __init__(self, base_url, name="Test Artist", login=True):
        self.base_url = base_url
        self.email = random_email()
        self.password = self.PASSWORD
        self.name = name
        self.id = None
        self.client = Client(base_url)
        reply = patiently(lambda: self.client.post("/api/auth/register", {
            "email": self.email, "password": self.password, "name": name}))
        assert reply.status == 201, repr(reply)
        self.id = reply.json["id"]
        if login:
            reply = self.login()
            assert reply.status == 200, repr(reply)
            self.client.token = reply.json["token"]

    def login(self, address=None, password=None, **options):
        """Open one more session of this account."""
        client = Client(self.base_url, address=address)
        body = {"email": self.email, "password": password or self.password}
        return patiently(lambda: client.post("/api/auth/login", body, **options))

    def second_client(self, address=None):
        """A client with a session of its own."""
        address = address or random_address()
        reply = self.login(address)
        assert reply.status == 200, repr(reply)
        return Client(self.base_url, address=address, token=reply.json["token"])


    def close(self):
        """End the account's sessions, so that the fleet's capacity is there for others."""
        if self.client.token:
            with contextlib.suppress(requests.RequestException):
                self.client.post("/api/auth/logout-all", checked=False)


def patiently(ask, seconds=20):
    """Ask again while the server says that it is busy hashing passwords."""
    def answered():
        reply = ask()
        busy = reply.status == 503 and reply.code in ("overloaded", "pool_saturated")
        return None if busy else reply
    return wait_until(answered, seconds, "an answer other than overloaded")
