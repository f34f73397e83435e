"""The stack that a run is made on: started, looked at, dropped."""

import os
import subprocess
import sys
import time

REPO = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
sys.path.insert(0, os.path.join(REPO, "deploy"))
sys.path.insert(0, os.path.join(REPO, "loadtest", "bench"))

from stack import database, migrations, place, procs, settings, stackup, supervisor  # noqa: E402  (deploy/stack)
from stack.say import Refusal  # noqa: E402
from world import free_base  # noqa: E402  (loadtest/bench)


class Fleet:
    """A stack of its own: STACK=verify-PHASE on a hundred free ports, tier production."""

    def __init__(self, build, phase):
        self.build, self.phase = os.path.abspath(build), phase
        self.name, self.base = f"verify-{phase}", free_base()
        self.place = place.Place(REPO, self.name, place.ensure_user())
        self.stack = None

    def tool(self, command, *words):
        """Run deploy/stack.py; what it said."""
        environment = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL")}
        for name in settings.OWN:
            environment.pop(name, None)
        environment["MB_BIN"] = os.path.join(self.build, "bin")
        done = subprocess.run(
            [os.path.join(REPO, "deploy/stack.py"), command, f"STACK={self.name}", *words],
            env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Refusal(f"stack {self.name}, {command}: {done.stdout}{done.stderr}".strip())
        return done.stdout

    def up(self, words):
        if self.place.exists:
            self.tool("clean-data")
        self.tool("up", f"PORT_BASE={self.base}", f"PHASE={self.phase}", "TIER=production", *words)
        self.place = place.Place(REPO, self.name, place.ensure_user())
        self.look()

    def look(self):
        """Read again what the stack remembers."""
        kept = settings.Settings.load(self.name, self.place.path("settings.json"))
        self.stack = stackup.Stack(self.place, kept, settings.read_table(REPO))

    def down(self):
        if self.place.exists:
            self.tool("clean-data")

    @property
    def topology(self):
        return self.stack.topology

    @property
    def values(self):
        """What the programs read."""
        return settings.read_env_file(self.place.path("stack.env"))

    @property
    def api(self):
        return f"http://127.0.0.1:{self.base}/api"

    def value(self, name):
        """A setting as a number, by default what lib/config.def says."""
        return settings.number(self.values, self.stack.table, name)

    def shards(self):
        """{shard: connection string}"""
        return migrations.places_of_stack(self.place, self.topology, self.stack.secrets)

    def checkpoint(self):
        """So that a crash's recovery reads what the load wrote, and not what filled the databases."""
        for d in self.topology.databases:
            database.psql(self.place, d, self.stack.secrets, "postgres", "CHECKPOINT")

    def supervisor(self):
        found = supervisor.Supervisor(self.place)
        if not found.connect():
            raise Refusal(f"The supervisor of stack {self.name} does not answer.")
        return found

    def processes(self, program=None):
        """Living processes of the stack, or of one program."""
        return [p for p in self.stack.processes() if program in (None, p.program)]

    def workers_of(self, instance):
        """Pids of an instance's API processes."""
        return [p.pid for p in self.processes(instance.program)
                if procs.command(p.pid) == "maxbooster-api"]

    def is_ready(self):
        """Does every instance say so of itself?"""
        return all(stackup.status_document(i.metrics_port)[0] == 200 for i in self.topology.instances)


def await_that(check, seconds, what, every=0.1):
    """Seconds until check() is true; Refusal where it does not become so."""
    began = time.monotonic()
    while not check():
        if time.monotonic() > began + seconds:
            raise Refusal(f"{what}: not within {seconds} s.")
        time.sleep(every)
    return time.monotonic() - began
