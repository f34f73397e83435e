"""Taking figures: load by wrk, CPU time from /proc, medians of rounds in turns."""

import json
import os
import statistics
import subprocess

HERE = os.path.dirname(os.path.realpath(__file__))
TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pids):
    """User and system time of the processes, their ended threads included."""
    total = 0
    for pid in pids:
        with open(f"/proc/{pid}/stat", encoding="ascii") as f:
            fields = f.read().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


def memory_mib(pid):
    """(PSS, RSS) of a process in MiB."""
    sizes = {}
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as f:
        for line in f.readlines()[1:]:
            name, value = line.split()[:2]
            sizes[name] = int(value) / 1024
    return sizes["Pss:"], sizes["Rss:"]


class Target:
    """An address under load, and the processes whose CPU time its requests cost."""

    def __init__(self, name, port, path, pids=(), tokens="-"):
        self.name, self.port, self.path = name, port, path
        self.pids, self.tokens = list(pids), tokens


def load(target, connections, seconds):
    """One run of wrk with one thread."""
    before = cpu_seconds(target.pids)
    done = subprocess.run(
        ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "5s",
         "-s", os.path.join(HERE, "requests.lua"),
         f"http://127.0.0.1:{target.port}{target.path}", "--", target.tokens],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    used = cpu_seconds(target.pids) - before
    _, found, result = done.stdout.partition("RESULT ")
    if not found:
        raise RuntimeError(f"wrk failed on {target.name}: {done.stdout}{done.stderr}")
    r = json.loads(result.splitlines()[0])
    good = r["requests"] - r["refused"]
    return {"perSecond": good * 1e6 / r["us"],
            "perCpuSecond": good / used if used > 0 else None,
            "refused": r["refused"], "failed": r["failed"] + r["timeouts"],
            "p50Ms": r["p50Us"] / 1000, "p99Ms": r["p99Us"] / 1000, "maxMs": r["maxUs"] / 1000,
            "loadAverage": os.getloadavg()[0]}


def alternate(targets, rounds, connections, seconds, after_round):
    """{name: [sample of each round]}: each visits all, so that a drift of the machine meets all."""
    samples = {t.name: [] for t in targets}
    for t in targets:
        load(t, connections, 2)  # pools fill, code gets hot
    for _ in range(rounds):
        for t in targets:
            load(t, connections, 1)
            samples[t.name].append(load(t, connections, seconds))
        after_round()
    return samples


def spread(values):
    """Median, least and most."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def row(name, text, unit, value, goal=None, at_most=False, **more):
    """A row of the report: a spread beside its goal."""
    met = None
    if goal is not None:
        met = value["median"] <= goal if at_most else value["median"] >= goal
    return {"name": name, "text": text, "unit": unit, **value, "goal": goal,
            "goalIs": ("atMost" if at_most else "atLeast") if goal is not None else None,
            "met": met, **more}


def figure(samples, field):
    return spread([s[field] for s in samples])


def ratio(samples, others, field):
    """Round by round, so that noise that met both cancels out."""
    return spread([a[field] / b[field] for a, b in zip(samples, others)])


def pids_named(name, folder):
    """Processes that run the program of that name in that folder."""
    found = []
    for pid in os.listdir("/proc"):
        try:
            if pid.isdigit() and os.readlink(f"/proc/{pid}/exe") == os.path.join(folder, name):
                found.append(int(pid))
        except OSError:
            continue
    return found
