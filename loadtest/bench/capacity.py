#!/usr/bin/python3
"""What a request and a track cost each tier, in CPU time: the input of `maxboosterctl capacity`.

usage: capacity.py [--build BUILD] [--seconds N] [--rounds N]

Two stacks of their own, one after the other, each under a bounded open load (storm) far below what it
carries, so that no figure is one of a queue. Phase 0: the mix at rising rates, and whole tracks one
after the other (up, checked, analysed, drawn, converted). Phase 3: the same mix on 1 to 6 of its
instances; 3 and 5 are held out of the fit. CPU time is what /proc tells of all processes of a tier,
less what the tier uses while nobody asks (measured before each). Writes build/capacity/costs.json.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
import urllib.request

sys.dont_write_bytecode = True

import single  # noqa: E402
import world as worlds  # noqa: E402
from measure import TICKS  # noqa: E402
from stack import procs  # noqa: E402
from stack.supervisor import Supervisor  # noqa: E402
from world import REPO, Refusal, World, say  # noqa: E402

# An artist's requests, and how many of a hundred.
FLOWS = ((40, "GET", "/api/auth/me"), (20, "GET", "/api/audio"), (20, "GET", "/api/jobs/@"),
         (10, "GET", "/api/jobs"), (10, "GET", "/api/users/search?q=bench"))
TIERS = {"nginx": "proxyMs", "api": "apiMs", "postgres": "postgresMs", "replica": "postgresMs",
         "redis": "redisMs", "s3": "s3Ms", "worker": "workerMs", "scheduler": "workerMs"}
RATES = (250, 500, 1000)  # of phase 0
RATE = 600               # of phase 3
INSTANCES, HELD_OUT = (1, 2, 3, 4, 5, 6), (3, 5)
ANSWERED_LEAST, TRIES = 0.99, 5
CONNECTIONS, TRACKS, IDLE_S, SETTLE_S, JOB_S = 32, 5, 4, 2, 120
POLL_S = 0.25  # of a job by the one who waits for it: each is a request too
LIMITS = ("TIER=production", "RATE_LIMIT_MAX=1000000000", "RATE_LIMIT_CRITICAL_MAX=1000000")


class TooBusy(Refusal):
    """The machine, for a figure."""


def tier_of(program):
    """Of "api-2", "worker-audio" or "s3"."""
    return TIERS.get(program.split("-")[0])


def process_seconds(pid):
    """CPU time of its living threads, in nanoseconds each (schedstat), and of its ended children,
    in ticks of 10 ms: many processes that do little would drown in ticks."""
    total = 0.0
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/schedstat", encoding="ascii") as f:
                total += int(f.read().split()[0]) / 1e9
        with open(f"/proc/{pid}/stat", encoding="ascii") as f:
            total += sum(map(int, f.read().rpartition(")")[2].split()[13:15])) / TICKS
    except OSError:
        pass
    return total


class Tiers:
    """CPU time of a stack's tiers."""

    def __init__(self, world):
        self.root = world.place.root
        with open(world.place.path("conf/programs.json"), encoding="utf-8") as f:
            rows = json.load(f)["programs"]
        self.folders = {p["folder"]: n for n, p in rows.items() if p["folder"]}

    def seconds(self):
        """{tier: CPU seconds so far, of its processes and of their children that have ended}."""
        found = dict.fromkeys(TIERS.values(), 0.0)
        every = {p.pid: p for p in procs.of_stack(self.root, self.folders)}
        for p in every.values():
            top = p
            while not tier_of(top.program) and top.ppid in every:
                top = every[top.ppid]
            tier = tier_of(top.program)
            if tier:
                found[tier] += process_seconds(p.pid)
        return found

    def rate(self, seconds):
        """{tier: CPU seconds a second} while the caller does nothing."""
        before, began = self.seconds(), time.monotonic()
        time.sleep(seconds)
        spent, after = time.monotonic() - began, self.seconds()
        return {t: (after[t] - before[t]) / spent for t in after}


def storm(world, rate, seconds, is_warming=False):
    """An open load of the mix; how many were answered."""
    flows = [f"f{i}:{rate * share / 100}:{method}:{path}"
             for i, (share, method, path) in enumerate(FLOWS)]
    done = subprocess.run(
        [os.path.join(world.build, "loadtest/storm"), str(world.base), str(CONNECTIONS),
         world.tokens_file, f"{seconds}:1", *flows], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Refusal(f"storm: {done.stderr}")
    world.trim_logs()
    flows = json.loads(done.stdout)["phases"][0]["flows"].values()
    asked, answered = sum(f["asked"] for f in flows), sum(f["answered"] for f in flows)
    if answered < ANSWERED_LEAST * asked and not is_warming:
        raise TooBusy(f"only {answered} of {asked} requests were answered at {rate}/s: the machine "
                      "is too busy for a figure")
    return answered


def cost(world, tiers, rate, seconds):
    """CPU milliseconds of one request, by tier. A run that the machine was too busy for counts for
    nothing and is done again, a few times."""
    for _ in range(TRIES - 1):
        try:
            return cost_once(world, tiers, rate, seconds)
        except TooBusy as busy:
            say(f"  {busy}; once more")
    return cost_once(world, tiers, rate, seconds)


def cost_once(world, tiers, rate, seconds):
    """One try of it."""
    storm(world, rate, SETTLE_S, is_warming=True)
    idle = tiers.rate(IDLE_S)
    before, began = tiers.seconds(), time.monotonic()
    n = storm(world, rate, seconds)
    spent, after = time.monotonic() - began, tiers.seconds()
    return {t: max(0.0, after[t] - before[t] - idle[t] * spent) * 1000 / n for t in after}, idle


def median_costs(world, tiers, rate, seconds, rounds):
    found = [cost(world, tiers, rate, seconds) for _ in range(rounds)]
    return ({t: statistics.median(c[t] for c, _ in found) for t in found[0][0]},
            {t: statistics.median(i[t] for _, i in found) for t in found[0][1]})


def wait_job(world, token, job):
    deadline = time.monotonic() + JOB_S
    while time.monotonic() < deadline:
        told = json.loads(world.get(f"/api/jobs/{job}", token)[2])
        if told["status"] == "completed":
            return told
        if told["status"] not in ("queued", "processing"):
            raise Refusal(f"job {job} {told['status']}")
        time.sleep(POLL_S)
    raise Refusal(f"job {job} has not ended within {JOB_S} s")


def track(world, token, data):
    """One track's life; bytes that S3 keeps of it."""
    grant = world.post("/api/audio/upload-url", {"fileName": "a.mp3", "contentType": "audio/mpeg",
                                                 "size": len(data)}, token)
    request = urllib.request.Request(grant["url"], data, grant["headers"], method="PUT")
    urllib.request.urlopen(request, timeout=60).close()
    file = world.post("/api/audio/complete-upload", {"key": grant["key"]}, token)["id"]
    jobs = [world.post(f"/api/audio/{kind}", {"fileId": file, **body}, token)["jobId"]
            for kind, body in (("waveform", {"zoom": [256, 4096]}), ("convert", {"format": "flac"}))]
    results = [wait_job(world, token, job)["result"] for job in jobs]
    deadline = time.monotonic() + JOB_S
    while json.loads(world.get(f"/api/audio/{file}", token)[2]).get("analysis") is None:
        if time.monotonic() > deadline:
            raise Refusal("a track is not analysed in time")
        time.sleep(POLL_S)
    return len(data) + results[1]["size"]


def tracks(world, tiers):
    """CPU milliseconds of one track, by tier, and its bytes."""
    with open(single.track(world.out), "rb") as f:
        data = f.read()
    kept = track(world, world.tokens[0], data)
    idle = tiers.rate(IDLE_S)
    before, began = tiers.seconds(), time.monotonic()
    for i in range(TRACKS):
        track(world, world.tokens[i], data)
    spent, after = time.monotonic() - began, tiers.seconds()
    costs = {t: max(0.0, after[t] - before[t] - idle[t] * spent) * 1000 / TRACKS for t in after}
    return {**costs, "bytes": kept, "s": spent / TRACKS}


def with_world(options, words, run):
    """The result of run(world, tiers) on a stack of its own."""
    worlds.STACK, worlds.STACK_WORDS = "capacity", (*LIMITS, *words)
    world = World(options.build, os.path.join(options.build, "capacity"))
    try:
        world.up()
        return run(world, Tiers(world))
    finally:
        world.down()


def phase_0(world, tiers, options):
    points = []
    for rate in RATES:
        costs, idle = median_costs(world, tiers, rate, options.seconds, options.rounds)
        points.append({"ratePerS": rate, **costs, "idle": idle})
        say(f"  {rate}/s: " + json.dumps(costs))
    found = tracks(world, tiers)
    say("  a track: " + json.dumps(found))
    return points, found


def phase_3(world, tiers, options):
    """Rounds visit all numbers of instances, so that a slow while of the machine meets all."""
    supervisor = Supervisor(world.place)
    if not supervisor.connect():
        raise Refusal("the stack's supervisor does not answer")
    samples, running = {n: [] for n in INSTANCES}, max(INSTANCES)
    for _ in range(options.rounds):
        for n in reversed(INSTANCES):
            for i in range(2, max(INSTANCES) + 1):
                if (i <= n) != (i <= running):
                    (supervisor.rpc.startProcess if i <= n else supervisor.rpc.stopProcess)(f"api-{i}")
            running = n
            samples[n].append(cost(world, tiers, RATE, options.seconds)[0])
    points = []
    for n in INSTANCES:
        ms = statistics.median(s["apiMs"] for s in samples[n])
        points.append({"n": n, "requestsPerCpuS": 1000 / ms, "heldOut": n in HELD_OUT,
                       "samples": samples[n]})
        say(f"  {n} instances: {1000 / ms:.0f} requests per app CPU second")
    return points


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", default=os.path.join(REPO, "build"))
    parser.add_argument("--seconds", type=int, default=6, help="of each point")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    began = os.getloadavg()[0]
    try:
        say("capacity: phase 0")
        points, per_track = with_world(options, ("SHARD_COUNT=1", "PHASE=0"),
                                       lambda w, t: phase_0(w, t, options))
        say("capacity: phase 3")
        instances = with_world(options, ("PHASE=3",), lambda w, t: phase_3(w, t, options))
    except (Refusal, OSError) as failure:
        print(f"capacity: {failure}", file=sys.stderr)
        return 1
    # The dearest of the rates: a slow trickle wakes each process for each request.
    per_request = {t: max(p[t] for p in points) for t in dict.fromkeys(TIERS.values())}
    result = {"at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "cores": os.cpu_count(),
              "loadAverageBefore": began, "mix": FLOWS, "perRequest": per_request,
              "perUpload": per_track, "rates": points, "instances": instances}
    path = os.path.join(options.build, "capacity/costs.json")
    with open(path, "w", encoding="utf-8") as f:
        json.dump(result, f, indent=1)
    say(f"Written: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
