"""What the benchmarks run in: a stack, users with sessions, further programs; ended at the end."""

import json
import os
import random
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

REPO = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
sys.path.insert(0, os.path.join(REPO, "deploy"))

from stack import place, ports, procs, settings  # noqa: E402  (the package deploy/stack/)
from stack.say import Refusal  # noqa: E402

STACK = "bench"
USERS = 32
# The limits must not be what is measured; everything else is as in production.
STACK_WORDS = ("TIER=production", "RATE_LIMIT_MAX=1000000000", "RATE_LIMIT_CRITICAL_MAX=1000000",
               "SHARD_COUNT=1", "PHASE=0")
START_WITHIN_S = 20


def say(text):
    print(text, flush=True)


def free_base():
    """A base whose hundred ports are free; below the range that the kernel gives to clients."""
    for base in random.sample(range(20000, 32600, 100), 100):
        if all(ports.is_free(port) for port in range(base, base + 100)):
            return base
    raise Refusal("No hundred ports are free between 20000 and 32600.")


def await_port(port, process):
    deadline = time.monotonic() + START_WITHIN_S
    while ports.is_free(port):
        if process.poll() is not None or time.monotonic() > deadline:
            raise Refusal(f"{process.args[0]} does not start on port {port}; see its log in "
                          "build/bench/run.")
        time.sleep(0.02)


def descendants(pid):
    """The process and all below it."""
    found = [pid]
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as f:
                for child in f.read().split():
                    found += descendants(int(child))
    except OSError:
        pass
    return found


class World:
    """The stack and what runs beside it."""

    def __init__(self, build, out):
        self.build, self.out = os.path.abspath(build), os.path.abspath(out)
        self.run = os.path.join(self.out, "run")
        self.base = free_base()
        self.place = self.values = None
        self.tokens, self.tokens_file = [], os.path.join(self.run, "tokens")
        self.children = []
        os.makedirs(self.run, exist_ok=True)

    def _stack(self, command, *words):
        environment = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL")}
        environment["MB_BIN"] = os.path.join(self.build, "bin")
        done = subprocess.run(
            [os.path.join(REPO, "deploy/stack.py"), command, f"STACK={STACK}", *words],
            env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Refusal(f"stack {STACK}, {command}: {done.stdout}{done.stderr}".strip())

    def up(self):
        self.place = place.Place(REPO, STACK, place.ensure_user())
        if self.place.exists:
            self._stack("clean-data")
        self._stack("up", f"PORT_BASE={self.base}", *STACK_WORDS)
        self.place = place.Place(REPO, STACK, place.ensure_user())
        self.values = settings.read_env_file(self.place.path("stack.env"))
        self.place.make_folder(self.place.path("tmp", "bench"))
        self._make_users()

    def down(self):
        for child in reversed(self.children):
            self.end(child)
        if self.place is not None and self.place.exists:
            self._stack("clean-data")

    def start(self, argv, log, port=None, as_stack_user=False, env=None):
        """Start a program that ends with us; wait until it listens."""
        with open(os.path.join(self.run, log), "ab") as out:
            child = subprocess.Popen(
                argv, cwd=self.place.path("tmp", "bench") if as_stack_user else self.run,
                env={**os.environ, **(env or {})}, stdin=subprocess.DEVNULL, stdout=out,
                stderr=subprocess.STDOUT, start_new_session=True,
                **(self.place.as_user() if as_stack_user else {}))
        self.children.append(child)
        if port is not None:
            await_port(port, child)
        return child

    def end(self, child):
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGTERM)  # each has a session, hence a group, of its own
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        if child in self.children:
            self.children.remove(child)

    def api_pids(self):
        return [p.pid for p in procs.of_stack(self.place.root)
                if procs.command(p.pid) == "maxbooster-api"]

    def get(self, path, token=None, port=None, timeout=10):
        """(status, header fields, body)"""
        request = urllib.request.Request(f"http://127.0.0.1:{port or self.base}{path}")
        if token:
            request.add_header("Authorization", f"Bearer {token}")
        with urllib.request.urlopen(request, timeout=timeout) as reply:
            return reply.status, dict(reply.headers), reply.read()

    def post(self, path, document, token=None):
        """The reply's document."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.base}{path}", json.dumps(document).encode(),
            {"Content-Type": "application/json"})
        if token:
            request.add_header("Authorization", f"Bearer {token}")
        with urllib.request.urlopen(request, timeout=30) as reply:
            return json.load(reply)

    def delete(self, path, token):
        """The status, whatever it is."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.base}{path}", method="DELETE",
                                         headers={"Authorization": f"Bearer {token}"})
        try:
            with urllib.request.urlopen(request, timeout=30) as reply:
                return reply.status
        except urllib.error.HTTPError as refusal:
            return refusal.code

    def _make_users(self):
        for i in range(USERS):
            account = {"email": f"bench{i}@example.com", "password": f"slow turtle {i} eats salad"}
            self.post("/api/auth/register", {**account, "name": f"Bench {i}"})
            self.tokens.append(self.post("/api/auth/login", account)["token"])
        with open(os.open(self.tokens_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w",
                  encoding="ascii") as f:
            f.write("\n".join(self.tokens) + "\n")

    def trim_logs(self):
        """Every request writes a line: keep the disk free. All writers append."""
        for folder in (self.place.path("log"), self.run):
            for name in os.listdir(folder):
                if name.endswith(".log"):
                    os.truncate(os.path.join(folder, name), 0)
