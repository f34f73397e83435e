"""What is looked at while the load runs: CPU time by program, the generator's share, /metrics."""

import os
import re
import threading
import time
import urllib.error
import urllib.request

TICKS = os.sysconf("SC_CLK_TCK")

LOOK_S, PROCESSES_S = 1, 5
BUCKET = re.compile(r'^http_server_request_duration_seconds_bucket\{http_route="([^"]*)",'
                    r'status_class="(\dxx)",le="([^"]*)"\} (\d+)', re.M)
TOTAL = re.compile(r'^http_server_request_duration_seconds_(sum|count)\{http_route="([^"]*)",'
                   r'status_class="(\dxx)"\} ([0-9.e+-]+)', re.M)
# Asked by us and by the stack itself, not by the load.
NOT_LOAD = ("GET /metrics", "GET /api/system/status", "GET /api/system/health", "GET /presigned")


def cpu_s(pid):
    """User and system time of a process, its ended children excluded; None where it is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as f:
            fields = f.read().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / TICKS


def machine_s():
    """(busy, all) CPU seconds of the machine."""
    with open("/proc/stat", encoding="ascii") as f:
        fields = [int(x) for x in f.readline().split()[1:9]]
    idle = fields[3] + fields[4]
    return (sum(fields) - idle) / TICKS, sum(fields) / TICKS


def tier_of(program):
    """api, postgres, redis … of a program's name; what a name does not tell is "other"."""
    found = re.match(r"(api|postgres|replica|redis|s3|nginx|worker|scheduler|edge)", program)
    return found.group(1) if found else \
        {"maxbooster-api": "api", "maxbooster-media": "worker", "maxbooster-worker": "worker"}.get(
            program, "other")


class ServerHistogram:
    """Requests by /metrics of an instance, counted on over restarts of its counters."""

    def __init__(self):
        self.last, self.total = {}, {}

    def take(self, text):
        now = {("bucket", route, le): 0 for route, _, le, _ in BUCKET.findall(text)}
        for route, _, le, n in BUCKET.findall(text):
            now["bucket", route, le] += int(n)
        for kind, route, _, value in TOTAL.findall(text):
            now[kind, route] = now.get((kind, route), 0) + float(value)
        for key, value in now.items():
            before = self.last.get(key, 0)
            self.total[key] = self.total.get(key, 0) + (value - before if value >= before else value)
        self.last = now


class Watch:
    """A thread that looks once a second until stop()."""

    def __init__(self, fleet, generator_pid):
        self.fleet, self.generator = fleet, generator_pid
        self.rows = []           # (s, generator's cores, machine's busy cores)
        self.programs = {}       # {pid: (program, first, last)}
        self.servers = {i.number: ServerHistogram() for i in fleet.topology.instances}
        self.missed = 0
        self.own_before = os.times().user + os.times().system
        self.began = time.monotonic()
        self._stop = threading.Event()
        self._look_at_processes()
        self._look_at_metrics(first=True)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        last = time.monotonic(), cpu_s(self.generator) or 0, machine_s()[0]
        heavy = time.monotonic()
        while not self._stop.wait(LOOK_S):
            now = time.monotonic(), cpu_s(self.generator), machine_s()[0]
            if now[1] is None:
                break
            took = now[0] - last[0]
            self.rows.append((now[0] - self.began, (now[1] - last[1]) / took, (now[2] - last[2]) / took))
            last = now
            if now[0] - heavy >= PROCESSES_S:
                heavy = now[0]
                self._look_at_processes()
                self._look_at_metrics()

    def _look_at_processes(self):
        for p in self.fleet.processes():
            self.programs.setdefault(p.pid, [tier_of(p.program), None, 0])
        for pid, row in self.programs.items():
            used = cpu_s(pid)
            if used is not None:
                row[1] = used if row[1] is None else row[1]
                row[2] = used

    def _look_at_metrics(self, first=False):
        for instance in self.fleet.topology.instances:
            server = self.servers[instance.number]
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{instance.metrics_port}/metrics",
                                            timeout=2) as reply:
                    server.take(reply.read().decode())
            except (OSError, urllib.error.URLError):
                self.missed += 1
            if first:
                server.total = {}

    def stop(self):
        self._stop.set()
        self._thread.join(10)
        self._look_at_processes()
        self._look_at_metrics()

    def generator_cores(self, window_s=5):
        """(mean, most over any window) of the generator's cores in use."""
        cores = [row[1] for row in self.rows]
        if not cores:
            return 0.0, 0.0
        wide = [sum(cores[i:i + window_s]) / window_s for i in range(max(1, len(cores) - window_s + 1))]
        return sum(cores) / len(cores), max(wide)

    def machine_cores(self):
        """Mean of the machine's cores in use, by everything on it."""
        return sum(row[2] for row in self.rows) / max(1, len(self.rows))

    def foreign_cores(self):
        """Cores that neither the stack nor the generator nor we have used: other work on the machine."""
        seconds = self.rows[-1][0] if self.rows else 1
        ours = os.times()
        used = sum(self.cpu_by_tier().values()) + ours.user + ours.system - self.own_before
        return max(0.0, self.machine_cores() - self.generator_cores()[0] - used / seconds)

    def cpu_by_tier(self):
        """CPU seconds; of a process that was seen first while the load ran, all of them."""
        found = {}
        for tier, first, last in self.programs.values():
            if first is not None:
                found[tier] = found.get(tier, 0) + last - (first or 0)
        return {t: round(s, 2) for t, s in sorted(found.items()) if s > 0}

    def server_histogram(self):
        """{bounds (s), counts (the last: above all bounds), n, avgMs} over all instances and routes of
        the load."""
        edges, n, total = {}, 0, 0.0
        for server in self.servers.values():
            for key, value in server.total.items():
                if key[1] in NOT_LOAD:
                    continue
                if key[0] == "bucket":
                    edges[key[2]] = edges.get(key[2], 0) + value
                elif key[0] == "count":
                    n += value
                else:
                    total += value
        bounds = sorted(float(e) for e in edges if e != "+Inf")
        below = {float(e): c for e, c in edges.items() if e != "+Inf"}
        counts, before = [], 0
        for bound in bounds:
            counts.append(int(below[bound] - before))
            before = below[bound]
        return {"boundsS": bounds, "counts": counts + [int(n - before)], "n": int(n),
                "avgMs": 1000 * total / n if n else None}
