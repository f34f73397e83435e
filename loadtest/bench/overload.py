#!/usr/bin/python3
"""Overload: 2, 5 and 10 times what the system carries, and what becomes of each class meanwhile.

usage: overload.py [--build BUILD] [--seconds N]

A stack of its own; three routes, one a class: a search that costs PostgreSQL milliseconds (best
effort), the own account (normal), ending a session (critical). First the peak: rising rates until
less than 98 % are answered, or not within a second. Then, for each factor: a calm before, the storm, a
calm after, as one open load. Told are goodput against the peak, p99 of each class, and how long after
the storm's end it takes until a second passes in which 99 % are answered. The same for an Express
service with rate-limiter-flexible, on the same servers, behind the same proxy. Writes
build/bench/overload.json.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time

sys.dont_write_bytecode = True

import peers  # noqa: E402
import report  # noqa: E402
import world as worlds  # noqa: E402
from measure import row, spread  # noqa: E402
from proxies import Proxy  # noqa: E402
from world import REPO, Refusal, World, say  # noqa: E402

FLOWS = (("best_effort", 60, "GET", "/api/users/search?q=zq"), ("normal", 30, "GET", "/api/auth/me"),
         ("critical", 10, "DELETE", "/api/auth/sessions/@"))
USERS_MORE = 20000  # so that a search has something to look through
CONNECTIONS = 512
FACTORS = (2, 5, 10)
CALM_S, AFTER_S, STEP_S, SETTLE_S = 4, 8, 5, 60
ANSWERED_LEAST = 0.98
RECOVERED = 0.99
CRITICAL_MS = 1000  # p99 that critical requests keep: the phase's target


def storm(world, port, phases, rate):
    """One run; rate is what all flows have together at factor 1."""
    program = os.path.join(world.build, "loadtest/storm")
    flows = [f"{name}:{rate * share / 100}:{method}:{path}" for name, share, method, path in FLOWS]
    done = subprocess.run(
        [program, str(port), str(CONNECTIONS), world.tokens_file,
         ",".join(f"{s}:{f}" for s, f in phases), *flows],
        capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Refusal(f"storm: {done.stderr}")
    world.trim_logs()
    return json.loads(done.stdout)


def totals(phase):
    flows = phase["flows"].values()
    return sum(f["asked"] for f in flows), sum(f["answered"] for f in flows)


def find_peak(world, port):
    """Requests a second that are answered at most, in time: what a queue puts off does not count."""
    rate, best, short = 50.0, 0.0, 0
    while short < 3:  # one step that is short may be the machine's; three in a row are the peak's
        phase = storm(world, port, [(STEP_S, 1)], rate)["phases"][0]
        asked, answered = totals(phase)
        in_time = max(f["p99Ms"] for f in phase["flows"].values()) <= CRITICAL_MS
        best = max(best, answered / STEP_S) if in_time else best
        short = short + 1 if answered < ANSWERED_LEAST * asked or not in_time else 0
        rate *= 1.25
    settle(world, port)
    return best


def settle(world, port):
    """Wait until what the load has left behind is worked off: ten quick answers in a row."""
    good, deadline = 0, time.monotonic() + SETTLE_S
    while good < 10 and time.monotonic() < deadline:
        began = time.monotonic()
        try:
            good = good + 1 if world.get("/api/auth/me", world.tokens[0], port)[0] == 200 \
                and time.monotonic() - began < 0.5 else 0
        except OSError:
            good = 0
    if good < 10:
        say(f"  port {port} has not come back within {SETTLE_S} s")


def recovery_s(run, storm_ends_s):
    """From the storm's end to the begin of the first second in which RECOVERED are answered."""
    buckets, size = run["timeline"], run["bucketMs"] / 1000
    first = round(storm_ends_s / size)
    window = round(1 / size)
    for i in range(first, len(buckets) - window + 1):
        asked = sum(b[0] for b in buckets[i:i + window])
        answered = sum(b[1] for b in buckets[i:i + window])
        if asked and answered >= RECOVERED * asked:
            return round((i - first) * size, 1)
    return None


def weather(world, port, peak, seconds):
    """{factor: what became of it}; the calm is half of the peak."""
    found = []
    for factor in FACTORS:
        calm = 0.5 / factor
        settle(world, port)
        run = storm(world, port, [(CALM_S, calm), (seconds, 1), (AFTER_S, calm)], peak * factor)
        asked, answered = totals(run["phases"][1])
        found.append({"factor": factor, "asked": asked / seconds, "goodput": answered / seconds,
                      "ofPeak": answered / seconds / peak,
                      "recoveryS": recovery_s(run, CALM_S + seconds),
                      "classes": run["phases"][1]["flows"]})
        say(f"  {factor} x: " + json.dumps(found[-1]))
    return found


def add_users(world):
    sql = ("INSERT INTO users (id, email, name, password_hash) SELECT gen_random_uuid(), "
           f"'u' || n || '@example.net', 'Artist number ' || n, 'x' FROM generate_series(1, {USERS_MORE}) n; "
           "ANALYZE users")
    done = subprocess.run(["psql", "-q", "-v", "ON_ERROR_STOP=1", world.values["DATABASE_URL"], "-c", sql],
                          capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Refusal(f"overload: {done.stderr}")


def start_express(world):
    peers.install(world.out, "express-limiter")
    port = world.base + 31
    world.start(["node", os.path.join(world.out, "express-limiter/server.js")], "express-limiter.out.log",
                port, env={**peers.environment(world, port), "PROCESSES": "2"})
    return Proxy(world, 0, "express").http(port).start().port


def measure(world, seconds):
    add_users(world)
    result = {"peak": {}, "flows": [f[0] for f in FLOWS], "seconds": seconds,
              "loadAverage": os.getloadavg()[0]}
    for name, port in (("maxbooster", world.base), ("express", None)):
        port = port or start_express(world)
        peak = find_peak(world, port)
        say(f"overload: {name} answers {peak:.0f}/s at most")
        result["peak"][name] = peak
        result[name] = weather(world, port, peak, seconds)
    return result


def rows(result):
    """For the report: ours with goals, Express's beside them."""
    found = []
    for ours, theirs in zip(result["maxbooster"], result["express"]):
        name, text = f"overload-{ours['factor']}x", f"overload {ours['factor']} ×"
        for who, storm, least, most_s in (("", ours, 95, 2), (", Express", theirs, None, None)):
            mark = "-express" if who else ""
            found.append(row(name + mark, f"{text}{who}: answered, of what is at most", "%",
                             spread([100 * storm["ofPeak"]]), least))
            recovery_s = AFTER_S if storm["recoveryS"] is None else storm["recoveryS"]
            found.append(row(f"{name}-recovery{mark}", f"{text}{who}: until all are answered again"
                             + (" (not within)" if storm["recoveryS"] is None else ""), "s",
                             spread([recovery_s]), most_s, True))
            found += [row(f"{name}-p99-{c}{mark}", f"{text}{who}: p99 of {c.replace('_', ' ')}", "ms",
                          spread([storm["classes"][c]["p99Ms"]]), CRITICAL_MS if c == "critical" and not who else None,
                          True) for c, _, _, _ in FLOWS]
    return found


def into_summary(out, result):
    """Into the report of make bench, where there is one."""
    try:
        with open(os.path.join(out, "summary.json"), encoding="utf-8") as f:
            summary = json.load(f)
    except FileNotFoundError:
        return
    summary["rows"] = [r for r in summary["rows"] if not r["name"].startswith("overload-")] + rows(result)
    summary["overload"] = result
    report.write(out, summary)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", default=os.path.join(REPO, "build"))
    parser.add_argument("--seconds", type=int, default=10, help="of each storm")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    worlds.STACK = "overload"
    world = World(options.build, os.path.join(options.build, "bench"))
    try:
        world.up()
        result = measure(world, options.seconds)
    except (Refusal, OSError) as failure:
        print(f"overload: {failure}", file=sys.stderr)
        return 1
    finally:
        world.down()
    result["at"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    path = os.path.join(world.out, "overload.json")
    with open(path, "w", encoding="utf-8") as f:
        json.dump(result, f, indent=1)
    into_summary(world.out, result)
    print(f"Written: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
