#!/usr/bin/python3
"""make bench: the figures of docs/internals/bench.md, each beside its goal and its peer.

It only reports: it fails where it could not measure, never because a figure is low.
"""

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time

sys.dont_write_bytecode = True

import audio  # noqa: E402
import data  # noqa: E402
import history  # noqa: E402
import jobs  # noqa: E402
import kept  # noqa: E402
import measure  # noqa: E402
import overload  # noqa: E402
import peers  # noqa: E402
import report  # noqa: E402
import single  # noqa: E402
from measure import Target, row  # noqa: E402
from proxies import HAND_BACK, Proxy  # noqa: E402
from world import REPO, STACK_WORDS, Refusal, World, say  # noqa: E402

CLIENTS = 32
SLOT_PEERS, SLOT_NULL, SLOT_STATIC, SLOT_KEPT = 0, 3, 4, 5
EQUAL_RATE, EQUAL_CONNECTIONS = 1000, 64  # open load, the same for all
MIB_MAX, THREADS = 48, 16
NULL_PROCESSES = 2
# Name, title, goal of requests per app CPU second against it.
PEERS = (("express", "Express 5", 3), ("fastify", "Fastify 5", None), ("go", "Go net/http", 1.2))


def machine():
    with open("/proc/cpuinfo", encoding="utf-8") as f:
        models = [line.partition(":")[2].strip() for line in f if line.startswith("model name")]
    return {"cores": os.cpu_count(), "processor": models[0] if models else platform.machine(),
            "kernel": platform.release(), "loadAverage": os.getloadavg()[0]}


def start_null(world):
    """The null program, as many processes and threads as the API's, behind its kind of proxy."""
    program = world.place.path("tmp", "bench", "null-fcgi")
    socket = os.path.join(world.place.sockets, "null.sock")
    shutil.copy2(os.path.join(world.build, "bin/null-fcgi"), program)
    os.chmod(program, 0o755)
    world.start(["/usr/bin/spawn-fcgi", "-n", "-s", socket, "-M", "0660", "-b", "1024", "--",
                 "/usr/bin/multiwatch", "-f", str(NULL_PROCESSES), "--", program, str(THREADS)],
                "null.log", as_stack_user=True)
    deadline = time.monotonic() + 10
    while not os.path.exists(socket):
        if time.monotonic() > deadline:
            raise Refusal("The null FastCGI program does not start; see build/bench/run/null.log.")
        time.sleep(0.02)
    keep = f"        keepalive 8;\n{HAND_BACK}"
    proxy = Proxy(world, SLOT_NULL, "null").fastcgi([socket], keep).start()
    world.get("/api/hello", port=proxy.port)
    return proxy


def equal_load(world, targets, rounds, seconds):
    """{name: [p99 in ms of each round]} under one open load: requests start at fixed times, and
    their time counts from when they should have started."""
    found = {t.name: [] for t in targets}
    for _ in range(rounds):
        for t in targets:
            done = subprocess.run(
                [os.path.join(world.build, "loadtest/storm"), str(t.port), str(EQUAL_CONNECTIONS),
                 world.tokens_file, f"{seconds}:1", f"me:{EQUAL_RATE}:GET:{t.path}"],
                capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise Refusal(f"storm: {done.stderr}")
            flow = json.loads(done.stdout)["phases"][0]["flows"]["me"]
            # What was not answered has no time: then there is no figure.
            found[t.name].append(flow["p99Ms"] if flow["answered"] == flow["asked"] else None)
        world.trim_logs()
    return found


def me_and_peers(world, rounds, seconds):
    """GET /api/auth/me here and in each peer, in turns: closed load, open load, memory."""
    world.get("/api/auth/me", world.tokens[0])
    same_script = peers.has_our_script(world)
    found = [("maxbooster", world.base, world.api_pids())]
    found += [(p.name, p.proxy.port, p.pids) for p in peers.start(world, SLOT_PEERS)]
    targets = [Target(name, port, "/api/auth/me", pids, world.tokens_file)
               for name, port, pids in found]
    samples = measure.alternate(targets, rounds, CLIENTS, seconds, world.trim_logs)
    p99 = equal_load(world, targets, rounds, seconds)
    # The API's processes are those of now: one may have been replaced.
    pids = {name: world.api_pids() if name == "maxbooster" else pids for name, _, pids in found}
    memory = {name: [measure.memory_mib(pid) for pid in those] for name, those in pids.items()}
    for child in list(world.children):
        world.end(child)
    return samples, p99, memory, same_script


def ladder(world, rounds, seconds):
    """What each layer adds: a static file, FastCGI without work, our reply without stores."""
    _, _, health = world.get("/api/system/health")
    static = Proxy(world, SLOT_STATIC, "static").static(health.decode()).start()
    null = start_null(world)
    pids = world.api_pids()
    null_pids = measure.pids_named("null-fcgi", world.place.path("tmp", "bench"))
    samples = measure.alternate(
        [Target("static", static.port, "/static.json"),
         Target("null", null.port, "/api/hello", null_pids),
         Target("health", world.base, "/api/system/health", pids),
         Target("sessions", world.base, "/api/auth/sessions", pids, world.tokens_file),
         Target("search", world.base, "/api/users/search?q=bench", pids, world.tokens_file)],
        rounds, CLIENTS, seconds, world.trim_logs)
    for child in list(world.children):
        world.end(child)
    return samples


def me_rows(samples):
    ours = samples["maxbooster"]
    rows = [row("me", "GET /api/auth/me, all guards", "requests/s",
                measure.figure(ours, "perSecond"), 10000)]
    for name, title, goal in PEERS:
        rows.append(row(f"me-vs-{name}", f"… per app CPU second, × {title}", "×",
                        measure.ratio(ours, samples[name], "perCpuSecond"), goal,
                        ours=measure.figure(ours, "perCpuSecond")["median"],
                        peer=measure.figure(samples[name], "perCpuSecond")["median"]))
    return rows


def equal_rows(p99):
    rows = []
    for name, title in [("maxbooster", "ours")] + [(n, t) for n, t, _ in PEERS]:
        known = [ms for ms in p99[name] if ms is not None]
        if known:
            rows.append(row(f"p99-{name}", f"p99 of GET /api/auth/me at {EQUAL_RATE}/s, open load: "
                            f"{title}", "ms", measure.spread(known)))
    return rows


def memory_rows(memory):
    ours = memory["maxbooster"]
    words = f"memory of an API process, {THREADS} threads, after load"
    rows = [row("memory-rss", f"{words}: RSS", "MiB", measure.spread([m[1] for m in ours]),
                MIB_MAX, True),
            row("memory-pss", "… PSS", "MiB", measure.spread([m[0] for m in ours]), MIB_MAX, True)]
    for name, title in [("maxbooster", "ours")] + [(n, t) for n, t, _ in PEERS]:
        rows.append(row(f"memory-tier-{name}", f"memory of the app tier, PSS of all processes: {title}",
                        "MiB", measure.spread([sum(m[0] for m in memory[name])])))
    return rows


def audio_rows(found):
    return [row(name, text, unit, value, goal, True, ours=ours, peer=peer)
            for name, text, unit, value, goal, ours, peer in found]


def ladder_table(samples, me):
    titles = (("static", "nginx, static file"), ("null", "nginx → libfcgi, no work"),
              ("health", "health: guards that ask nobody"), ("sessions", "own sessions: Redis, twice"),
              ("maxbooster", "me: Redis, PostgreSQL"), ("search", "search: Redis, every shard"))
    samples = {**samples, "maxbooster": me}
    return [{"name": name, "text": text,
             **{f: measure.figure(samples[name], f) for f in ("perSecond", "p50Ms", "p99Ms")},
             "perCpuSecond": measure.figure(samples[name], "perCpuSecond")
             if samples[name][0]["perCpuSecond"] else None} for name, text in titles]


def bench(world, options):
    began = time.monotonic()
    summary = {"at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "machine": machine(),
               "settings": {"rounds": options.rounds, "seconds": options.seconds,
                            "clients": CLIENTS, "stack": list(STACK_WORDS)}, "notes": []}
    say("bench: the peers (first time: npm install, go build)")
    os.makedirs(world.out, exist_ok=True)
    for name in ("express", "fastify"):
        peers.install(world.out, name)
    peers.build_go(world.out)
    say("bench: a stack of its own")
    world.up()
    say("bench: presigning; guards; audio")
    presign = single.presign(world, options.rounds)
    guards = single.guards(world, options.rounds)
    sound = audio.run(world, options.rounds, options.long)
    say("bench: the data tier")
    tier = data.run(world, options.rounds)
    say("bench: the job queue beside BullMQ")
    queue = jobs.run(world, options.rounds)
    say("bench: GET /api/auth/me beside Express, Fastify and Go")
    me, p99, memory, same_script = me_and_peers(world, options.rounds, options.seconds)
    say("bench: the ladder")
    steps = ladder(world, options.rounds, options.seconds)
    say("bench: kept connections")
    summary["kept"] = kept.run(world, SLOT_KEPT, options.rounds, options.kept_seconds)
    say("bench: overload, beside Express")
    storms = overload.measure(world, options.overload_seconds)
    if not same_script:
        summary["notes"].append("The API's session script is another than "
                                "loadtest/peers/session_check.lua, which the peers run.")
    refused = sum(s["refused"] + s["failed"]
                  for run in (me, steps) for samples in run.values() for s in samples)
    if refused:
        summary["notes"].append(f"{refused} requests of the rows above were refused or failed.")
    summary["rows"] = me_rows(me) + equal_rows(p99)
    summary["rows"].append(row("health", "GET /api/system/health", "requests/s",
                               measure.figure(steps["health"], "perSecond"), 25000))
    summary["rows"] += memory_rows(memory)
    summary["rows"].append(row("presign", "presigned URLs, one core", "URLs/s", presign, 50000))
    summary["rows"].append(row("guards", "all guards of a request, above the way without: CPU", "µs", guards, 25,
                               True))
    summary["rows"] += audio_rows(sound)
    summary["rows"] += data.rows(row, tier)
    summary["rows"] += jobs.rows(row, queue)
    summary["rows"] += overload.rows(storms)
    summary["overload"] = storms
    summary["ladder"] = ladder_table(steps, me["maxbooster"])
    summary["samples"] = {**me, **steps}
    summary["queue"] = queue
    summary["machine"]["loadAverageAfter"] = os.getloadavg()[0]
    summary["tookS"] = round(time.monotonic() - began)
    return summary


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", default=os.path.join(REPO, "build"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5, help="of each run")
    parser.add_argument("--kept-seconds", type=int, default=3,
                        help="of each run with kept connections")
    parser.add_argument("--overload-seconds", type=int, default=10, help="of each storm")
    parser.add_argument("--long", action="store_true",
                        help="convert an hour to every format, and give every job eight hours")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the stack is dropped
    out = os.path.join(options.build, "bench")
    world = World(options.build, out)
    try:
        summary = bench(world, options)
    except (Refusal, OSError, RuntimeError) as failure:
        print(f"bench: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        world.down()
    past = os.path.join(out, "history.jsonl")
    before = history.latest(past, summary["machine"])
    for r in summary["rows"]:
        r["before"] = before.get(r["name"])
    history.append(past, summary)
    report.write(out, summary)
    print(report.table(summary))
    print(f"\nWritten: {os.path.relpath(out)}/summary.json and report.html ({summary['tookS']} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
