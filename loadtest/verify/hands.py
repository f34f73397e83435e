"""The faults of faults.json, done to a fleet. Each returns (note, seconds until it had recovered)."""

import os
import shutil
import signal
import subprocess
import tempfile
import time

import redis

from fleet import REPO, Refusal, await_that
from stack import database, ports, procs, stackup

BACK_S = 30  # what was killed is back within this, or the fault failed

# A change like a real one: a column and an index, built beside the writers; then taken back.
CHANGE = {
    "deploy/verify_column.sql": "BEGIN;\nALTER TABLE audio_files ADD COLUMN verify_note text;\nCOMMIT;\n",
    "revert/verify_column.sql": "BEGIN;\nALTER TABLE audio_files DROP COLUMN verify_note;\nCOMMIT;\n",
    "verify/verify_column.sql": "BEGIN;\nSELECT verify_note FROM audio_files WHERE false;\nROLLBACK;\n",
    "deploy/verify_index.sql": "CREATE INDEX CONCURRENTLY IF NOT EXISTS verify_names ON audio_files "
                               "(user_id, file_name);\n",
    "revert/verify_index.sql": "DROP INDEX CONCURRENTLY IF EXISTS verify_names;\n",
    "verify/verify_index.sql": "BEGIN;\nSELECT 'verify_names'::regclass;\nROLLBACK;\n",
}
PLAN = ("\nverify_column 2026-01-01T00:00:00Z Max Booster <dev@maxbooster.invalid> # A column, for a while\n"
        "verify_index 2026-01-01T00:00:01Z Max Booster <dev@maxbooster.invalid> # An index, for a while\n")


def role_of(node, password):
    """master or slave; None where it does not answer."""
    try:
        with redis.Redis(port=node.port, password=password, socket_timeout=1) as client:
            return client.info("replication")["role"]
    except redis.RedisError:
        return None


class Hands:
    def __init__(self, fleet):
        self.fleet = fleet

    def do(self, fault):
        """Do one row of faults.json."""
        action = getattr(self, "_" + fault["do"].replace("-", "_"), None)
        if action is None:
            raise Refusal(f"faults.json: nobody knows how to do {fault['do']}.")
        return action(fault)

    # Which programs a word names

    def _programs(self, what):
        """Programs of a kind, or the one of that name."""
        topo = self.fleet.topology
        kinds = {"redis": [r.program for r in topo.redis], "postgres": [d.program for d in topo.databases],
                 "replica": [r.program for r in topo.replicas], "s3": ["s3"],
                 "scheduler": list(topo.schedulers), "worker": [w.program for w in topo.workers]}
        names = kinds.get(what, [what])
        if not names:
            raise Refusal(f"This topology has no {what}.")
        return names

    def _answers(self, program):
        """Is a store back?"""
        fleet = self.fleet
        topo, place, secrets = fleet.topology, fleet.place, fleet.stack.secrets
        for d in topo.databases:
            if d.program == program:
                return database.ready(place, d)
        for r in topo.replicas:
            if r.program == program:
                return database.follows(place, r, secrets)[0]
        for r in topo.redis:
            if r.program == program:
                return ports.redis_answers(r.port, secrets["redis"])
        return bool(fleet.processes(program))

    # The faults

    def _kill(self, fault):
        what = fault["what"]
        if what == "api-process":
            return self._kill_api_process()
        if what == "instance":
            return self._kill_instance()
        name = self._programs(what)[-1 if what in ("replica", "redis") else 0]
        old = {p.pid for p in self.fleet.processes(name)}
        if not old:
            raise Refusal(f"{name} does not run.")
        for pid in old:
            procs.send([pid], signal.SIGKILL)
        took = await_that(lambda: {p.pid for p in self.fleet.processes(name)} - old
                          and self._answers(name), BACK_S, f"{name} after kill -9")
        return f"kill -9 of {name} ({len(old)} processes)", took

    def _kill_api_process(self):
        instance = self.fleet.topology.instances[0]
        workers = self.fleet.workers_of(instance)
        os.kill(workers[0], signal.SIGKILL)
        took = await_that(lambda: len(set(self.fleet.workers_of(instance)) - {workers[0]}) == len(workers),
                          BACK_S, "an API process after kill -9")
        return f"kill -9 of process {workers[0]}, one of {len(workers)} of {instance.program}", took

    def _kill_instance(self):
        instance = self.fleet.topology.instances[-1]
        if len(self.fleet.topology.instances) == 1:
            raise Refusal("The only instance is not killed.")
        old = {p.pid for p in self.fleet.processes() if p.program == instance.program}
        procs.send(old, signal.SIGKILL)
        took = await_that(lambda: stackup.status_document(instance.metrics_port)[0] == 200, BACK_S,
                          f"{instance.program} after kill -9")
        return f"kill -9 of all {len(old)} processes of {instance.program}", took

    def _stop_and_go(self, names, seconds, stop_ms=None, every_ms=None):
        """SIGSTOP, all the time or a part of each period; SIGCONT at the end, whatever happens."""
        until = time.monotonic() + seconds
        pids = [p.pid for n in names for p in self.fleet.processes(n)]
        if not pids:
            raise Refusal(f"{', '.join(names)}: no process found.")
        try:
            while time.monotonic() < until:
                procs.send(pids, signal.SIGSTOP)
                time.sleep(stop_ms / 1000 if stop_ms else seconds)
                if stop_ms:
                    procs.send(pids, signal.SIGCONT)
                    time.sleep((every_ms - stop_ms) / 1000)
        finally:
            procs.send(pids, signal.SIGCONT)
        return len(pids)

    def _pause(self, fault):
        name = self._programs(fault["what"])[0]
        self._stop_and_go([name], fault["seconds"])
        took = await_that(lambda: self._answers(name), BACK_S, f"{name} after a pause")
        return f"{name} stood still for {fault['seconds']} s", fault["seconds"] + took

    def _slow(self, fault):
        names = self._programs(fault["what"])
        n = self._stop_and_go(names, fault["seconds"], fault["stopMs"], fault["everyMs"])
        return (f"{fault['what']} ({n} processes) held {fault['stopMs']} of each {fault['everyMs']} ms, "
                f"for {fault['seconds']} s"), fault["seconds"]

    def _outage(self, fault):
        names, supervisor = self._programs(fault["what"]), self.fleet.supervisor()
        supervisor.stop_softly(names)
        try:
            time.sleep(fault["seconds"])
        finally:
            for name in names:
                supervisor.rpc.startProcess(name, False)
        took = await_that(lambda: all(self._answers(n) for n in names), BACK_S, f"{names[0]} to be back")
        return (f"{', '.join(names)} stopped for {fault['seconds']} s: the proxy answers 503 for it",
                fault["seconds"] + took)

    def _failover(self, _fault):
        topo = self.fleet.topology
        if not topo.is_redis_cluster:
            raise Refusal("There is no Redis Cluster to fail over.")
        secret = self.fleet.stack.secrets["redis"]
        pairs = [(m, r) for r in topo.redis if r.master for m in topo.redis if m.number == r.master]
        master, copy = pairs[0]
        if role_of(master, secret) != "master":
            master, copy = copy, master
        pids = [p.pid for p in self.fleet.processes(master.program)]
        procs.send(pids, signal.SIGSTOP)
        try:
            took = await_that(lambda: role_of(copy, secret) == "master", BACK_S,
                              f"{copy.program} to take over")
        finally:
            procs.send(pids, signal.SIGCONT)
        await_that(lambda: role_of(master, secret) == "slave", BACK_S,
                   f"{master.program} to follow")
        return f"{master.program} stood still until {copy.program} had taken its slots over", took

    def _rolling_restart(self, _fault):
        began = time.monotonic()
        old = {p for i in self.fleet.topology.instances for p in self.fleet.workers_of(i)}
        self.fleet.tool("restart")
        self.fleet.look()
        left = old & {p for i in self.fleet.topology.instances for p in self.fleet.workers_of(i)}
        if left:
            raise Refusal(f"Processes {sorted(left)} of the old pools still run.")
        took = time.monotonic() - began
        return (f"{len(self.fleet.topology.instances)} instances, one after the other: new pool on a new "
                f"socket, proxy reloaded, {len(old)} old processes drained"), took

    def _migrate(self, _fault):
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="maxbooster-verify-") as folder:
            shutil.copytree(os.path.join(REPO, "sql"), folder, dirs_exist_ok=True)
            for name, text in CHANGE.items():
                with open(os.path.join(folder, name), "w", encoding="utf-8") as f:
                    f.write(text)
            with open(os.path.join(folder, "sqitch.plan"), "a", encoding="utf-8") as f:
                f.write(PLAN)
            # The rollback twice: the index, then the column.
            for word in ("deploy", "verify", "rollback", "rollback"):
                done = subprocess.run(
                    ["/usr/bin/python3", os.path.join(REPO, "deploy/migrate.py"), word, "--sql", folder,
                     "--config", self.fleet.place.path("stack.env")], stdin=subprocess.DEVNULL,
                    capture_output=True, text=True, check=False)
                if done.returncode != 0:
                    raise Refusal(f"migrate.py {word}: {(done.stdout + done.stderr)[-500:]}")
        took = time.monotonic() - began
        return (f"a column and an index of audio_files deployed on {len(self.fleet.shards())} shards, "
                "verified, reverted"), took

    def _reload_proxy(self, _fault):
        began = time.monotonic()
        old = {p.pid for p in self.fleet.processes("nginx")}
        self.fleet.supervisor().signal("nginx", "HUP")
        await_that(lambda: {p.pid for p in self.fleet.processes("nginx")} - old, BACK_S,
                   "new workers of the proxy")
        return "the proxy read its configuration again, with new workers", time.monotonic() - began
