"""A stack that is split, taken back and split again while people use it: every request is answered,
none is lost, and afterwards everything goes on as before."""
import contextlib
import os
import pathlib
import random
import subprocess
import threading
import time

import psycopg2
import pytest

from harness import audio, reshardlab, stack as stacks, tracks
from harness.client import Client, random_email
from harness.waits import wait_until

ROOT = pathlib.Path(__file__).resolve().parent.parent
PASSWORD = "a quiet harbour at dawn"
pytestmark = pytest.mark.xdist_group("reshard_live")


class Person(threading.Thread):
    """Registers, changes the name, asks for uploads and reads; remembers what was answered."""

    def __init__(self, stack, seed):
        super().__init__(daemon=True)
        self.client = Client(stack.url)
        self.random = random.Random(seed)
        self.stopping = threading.Event()
        self.users = {}  # id: [address, name, token]
        self.files = {}  # id: owner
        self.done, self.shed, self.longest_s, self.failures = 0, 0, 0.0, []

    def ask(self, method, path, json=None, token=None, wanted=200):
        self.client.token = token
        start = time.monotonic()
        reply = self.client.request(method, path, json=json, checked=False)
        while reply.status == 503 and reply.code == "overloaded" and not self.stopping.is_set():
            self.shed += 1  # the machine has too much to do (passwords): no matter of shards
            self.stopping.wait(0.2)
            start = time.monotonic()
            reply = self.client.request(method, path, json=json, checked=False)
        self.longest_s = max(self.longest_s, time.monotonic() - start)
        assert reply.status == wanted, f"{method} {path}: {reply!r}"
        self.done += 1
        return reply.json

    def register(self):
        address = random_email()
        credentials = {"email": address, "password": PASSWORD}
        user = self.ask("POST", "/api/auth/register", credentials | {"name": "new"}, wanted=201)
        login = self.ask("POST", "/api/auth/login", credentials)
        self.users[user["id"]] = [address, "new", login["token"]]

    def rename(self, user):
        name = f"name {self.random.randrange(10 ** 9)}"
        token = self.users[user][2]
        self.ask("PATCH", "/api/auth/me", {"name": name}, token)
        self.users[user][1] = name
        read = self.ask("GET", "/api/auth/me", token=token)
        assert read["name"] == name, f"read {read['name']} behind {name}"

    def upload(self, user):
        body = {"fileName": "a.mp3", "contentType": "audio/mpeg", "size": 1000}
        grant = self.ask("POST", "/api/audio/upload-url", body, self.users[user][2], wanted=201)
        self.files[grant["fileId"]] = user

    def read(self, user):
        self.ask("GET", "/api/audio", token=self.users[user][2])
        self.ask("GET", "/api/jobs", token=self.users[user][2])
        seen = self.ask("GET", f"/api/users/{self.random.choice(list(self.users))}",
                        token=self.users[user][2])
        assert self.users[seen["id"]][1] == seen["name"]

    def run(self):
        try:
            while not self.stopping.is_set():
                if not self.users or self.random.random() < 0.2:
                    self.register()
                act = self.random.choice([self.rename, self.rename, self.upload, self.read])
                act(self.random.choice(list(self.users)))
                self.stopping.wait(0.02)
        except Exception as fault:  # pylint: disable=broad-except
            self.failures.append(f"{type(fault).__name__}: {fault}")


class Crowd:
    """Several of them."""

    def __init__(self, stack, n=4):
        self.people = [Person(stack, seed) for seed in range(n)]
        for person in self.people:
            person.start()

    @property
    def done(self):
        return sum(p.done for p in self.people)

    def failures(self):
        return [f for p in self.people for f in p.failures]

    def take_longest_ms(self):
        """Longest that a request took since the last call."""
        longest = max(p.longest_s for p in self.people)
        for person in self.people:
            person.longest_s = 0.0
        return round(longest * 1000)

    def go_on(self, n=100):
        before = self.done
        wait_until(lambda: self.failures() or self.done >= before + n, 120, "requests to go on")
        assert not self.failures(), self.failures()

    def end(self):
        for person in self.people:
            person.stopping.set()
        for person in self.people:
            person.join(60)


class Operator:
    """maxboosterctl of a stack with the administrator's credentials."""

    def __init__(self, stack):
        self.stack = stack
        self.count = int(stack.env["SHARD_COUNT"])
        text = (stack.folder / "admin.env").read_text(encoding="ascii")
        self.admin = text.strip().partition("=")[2]
        self.words = psycopg2.extensions.parse_dsn(self.admin)

    def __call__(self, *words, expect=0):
        env = {"CONFIG_FILE": str(self.stack.folder / "stack.env"), "PATH": os.environ["PATH"],
               "DATABASE_ADMIN_URL": self.admin}
        done = subprocess.run([str(self.stack.folder / "bin/maxboosterctl"), "shards", *words],
                              env=env, capture_output=True, text=True, timeout=300, check=False,
                              stdin=subprocess.DEVNULL)
        text = done.stdout + done.stderr
        assert done.returncode == expect, text
        assert self.words["password"] not in text
        return text

    def connect(self, location):
        return psycopg2.connect(location, user=self.words["user"],
                                password=self.words["password"])

    def databases(self):
        """(number of shards, location of each), by the newest map."""
        first = self.stack.shard_urls()
        places = [psycopg2.extensions.parse_dsn(url) for url in first]
        places = [f"host={p['host']} port={p['port']} dbname={p['dbname']}" for p in places]
        directory = reshardlab.Directory(self.count, places, self.connect)
        return directory.look()


def check_rows(operator, crowd):
    """What was answered is there, once, where it belongs."""
    count, places = operator.databases()
    found = {table: {} for table in reshardlab.TABLES}
    for location in set(places):
        with contextlib.closing(operator.connect(location)) as connection:
            reshardlab.collect(connection, lambda place, here=location:
                               places[place % count] == here, found)
    for person in crowd.people:
        for user, (address, name, _) in person.users.items():
            assert name in found["users"][user] and user in found["emails"][address], user
        for file, user in person.files.items():
            assert user in found["audio_files"][file], file
    known = {u for p in crowd.people for u in p.users}
    assert set(found["users"]) >= known
    return {table: len(rows) for table, rows in found.items() if rows}


def migrations_of(stack, command):
    """make db-… of a stack."""
    return subprocess.run([str(ROOT / "deploy/stack.py"), command, f"STACK={stack.folder.name}"],
                          capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
                          timeout=120)


@pytest.fixture(scope="module", name="private")
def make_private(stack):
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0")
    with stacks.private_stack(stack, f"{worker}-reshard", SHARD_COUNT=2, RATE_LIMIT_MAX=1000000,
                              RATE_LIMIT_CRITICAL_MAX=1000000, MAX_SESSIONS=100000) as found:
        yield found


def test_a_stack_in_use_is_split_and_goes_back_and_is_split_for_good(private):
    operator, crowd = Operator(private), Crowd(private)
    try:
        crowd.go_on()
        before = operator.databases()[1]
        crowd.take_longest_ms()
        text = operator("split")
        print(text, f"longest request: {crowd.take_longest_ms()} ms", sep="\n")
        count, places = operator.databases()
        assert count == 4 and len(set(places)) == 4 and not set(places) & set(before)
        refused = migrations_of(private, "db-rollback")
        assert refused.returncode != 0 and "Shards are being moved" in refused.stderr, refused
        crowd.go_on()
        print(operator("way-back"), f"longest request: {crowd.take_longest_ms()} ms", sep="\n")
        assert operator.databases() == (4, before + before)
        crowd.go_on()
        operator("clean-up")
        print(operator("split"), f"longest request: {crowd.take_longest_ms()} ms", sep="\n")
        assert operator.databases() == (4, places)
        crowd.go_on()
        operator("clean-up")
        crowd.go_on()
    finally:
        crowd.end()
    assert not crowd.failures(), crowd.failures()
    print(crowd.done, "requests;", sum(p.shed for p in crowd.people), "shed;", check_rows(operator, crowd))


def test_everything_goes_on_behind_a_split(private):
    """A new account, an upload, its jobs; and the programs, started anew with the old
    configuration."""
    for restarted in (False, True):
        if restarted:
            for pid in [p.pid for p in private.api_workers()]:
                private.kill(pid)
            private.wait_ready()
        user = private.user()
        file = audio.upload(user.client, "tone.wav", tracks.wav(3))
        audio.analysed(user.client, file["id"])
        reply = user.client.post("/api/audio/waveform", {"fileId": file["id"], "zoom": 256},
                                 expect=202)
        audio.wait_job(user.client, reply.json["jobId"])
        user.close()


def test_the_migrations_know_where_the_shards_are(private):
    done = migrations_of(private, "db-status")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("shard ")]
    assert [line[:8] for line in lines] == [f"shard {n:02d}" for n in range(4)], done.stdout
    assert all("up to date" in line for line in lines), done.stdout
