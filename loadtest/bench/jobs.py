"""The job queue beside BullMQ: no-op jobs with the same payload through one and the same Redis."""

import json
import os
import subprocess
import time

import peers
from measure import cpu_seconds, pids_named, ratio, spread
from world import Refusal

JOBS, PAYLOAD_BYTES, BATCH = 20000, 100, 50
PICKUP_RATE, PICKUP_S = 200, 5  # an open load: pushes come whether or not the last is picked up
IDLE_S = 10
REDIS_OFFSET = 38


def _redis_cpu(port):
    done = subprocess.run(["redis-cli", "-p", str(port), "INFO", "cpu"], capture_output=True,
                          text=True, check=True)
    fields = dict(line.split(":") for line in done.stdout.split() if ":" in line)
    return float(fields["used_cpu_user"]) + float(fields["used_cpu_sys"])


def _run(argv, port):
    """One program from an empty Redis; its figures and what it cost Redis."""
    subprocess.run(["redis-cli", "-p", str(port), "FLUSHALL"], capture_output=True, check=True)
    before = _redis_cpu(port)
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          check=False, env={**os.environ, "LOG_LEVEL": "error",
                                            "REDIS_URL": f"redis://127.0.0.1:{port}",
                                            "JOB_AUDIO_CONVERT_CONCURRENCY": "100000"})
    if done.returncode != 0:
        raise Refusal(f"{argv[0]} failed: {done.stdout[-1000:]}{done.stderr[-1000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    found["redisUs"] = (_redis_cpu(port) - before) / found["jobs"] * 1e6
    return found


def _job_figures(found):
    if found["jobs"] != JOBS:
        raise Refusal(f"{found['jobs']} of {JOBS} jobs were done")
    return {"perCpuSecond": found["jobs"] / found["cpuS"], "redisUs": found["redisUs"],
            "perSecond": found["jobs"] / found["wallS"]}


def _idle(world):
    """Share of a core that a worker and a scheduler with nothing to do take."""
    pids = [p for name in ("maxbooster-worker", "maxbooster-scheduler")
            for p in pids_named(name, world.place.path("bin"))]
    before, begun = cpu_seconds(pids), time.monotonic()
    time.sleep(IDLE_S)
    return 100 * (cpu_seconds(pids) - before) / (time.monotonic() - begun)


def run(world, rounds):
    """{ours, bullmq: [samples], pickup: [samples], idle: %}"""
    folder = peers.install(world.out, "bullmq")
    port = world.base + REDIS_OFFSET
    server = world.start(["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "",
                          "--appendonly", "no"], "queue-redis.log", port)
    driver = os.path.join(world.build, "loadtest/queue_driver")
    ours = [driver, "bench", str(JOBS), str(BATCH), str(PAYLOAD_BYTES)]
    theirs = ["node", os.path.join(folder, "run.js"), str(port), str(JOBS), str(PAYLOAD_BYTES)]
    samples = {"ours": [], "bullmq": [], "pickup": []}
    for _ in range(rounds):
        samples["bullmq"].append(_job_figures(_run(theirs, port)))
        samples["ours"].append(_job_figures(_run(ours, port)))
        samples["pickup"].append(_run([driver, "pickup", str(PICKUP_RATE), str(PICKUP_S)], port))
    world.end(server)
    samples["idle"] = [_idle(world)]
    return samples


def rows(row, samples):
    """For the report, by its function row()."""
    ours, bullmq = samples["ours"], samples["bullmq"]

    def beside(name, text, field, goal, at_most=False):
        return row(name, text, "×", ratio(ours, bullmq, field), goal, at_most,
                   ours=spread([s[field] for s in ours])["median"],
                   peer=spread([s[field] for s in bullmq])["median"])
    return [beside("queue-cpu", "no-op jobs per client CPU second, × BullMQ", "perCpuSecond", 4),
            beside("queue-redis", "… Redis CPU a job, × BullMQ", "redisUs", 0.6, True),
            beside("queue-throughput", "… end to end, × BullMQ", "perSecond", 1.5),
            row("queue-pickup", f"pick-up p99, {PICKUP_RATE} jobs/s, open load", "ms",
                spread([s["p99Ms"] for s in samples["pickup"]]), 5, True),
            row("queue-idle", "idle worker and scheduler", "% of a core",
                spread(samples["idle"]), 1, True)]
