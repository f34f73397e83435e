"""Kept connections against threads: what nginx keeps to the API, with 32 and with 128 clients.

And whether requests on a second path still pass meanwhile.
"""

import threading
import time

import measure
from proxies import HAND_BACK, NO_HAND_BACK, Proxy, kept_by_stack

CLIENTS = (32, 128)
PAUSE_S = 0.1           # between two requests of the second path
SECOND_TIMEOUT_S = 2

# (name, what nginx keeps per worker, directives beside it, kept at all)
VARIANTS = (
    ("off", 0, "", False),
    ("4", 4, HAND_BACK, True),
    ("8", 8, HAND_BACK, True),
    ("16", 16, HAND_BACK, True),
    ("64", 64, HAND_BACK, True),
    ("8 for ever", 8, NO_HAND_BACK, True),
    ("64 for ever", 64, NO_HAND_BACK, True),
)


class SecondPath:
    """Asks for the metrics at the inner address, over fresh connections, meanwhile."""

    def __init__(self, world, port):
        self.world, self.port = world, port
        self.waits_ms, self.failures, self.stop = [], 0, threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self):
        while not self.stop.is_set():
            began = time.monotonic()
            try:
                self.world.get("/metrics", port=self.port, timeout=SECOND_TIMEOUT_S)
                self.waits_ms.append((time.monotonic() - began) * 1000)
            except OSError:
                self.failures += 1
            self.stop.wait(PAUSE_S)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()


def _proxy(world, slot, variant):
    name, kept, more, is_kept = variant
    keep = f"        keepalive {kept};\n{more}" if is_kept else ""
    socket = f"{world.place.sockets}/api.sock"
    return Proxy(world, slot, "kept-" + name.replace(" ", "-")).fastcgi([socket], keep, is_kept)


def run(world, slot, rounds, seconds):
    """One row per variant and number of clients.

    A variant's proxy ends before the next begins: its idle connections may hold threads.
    """
    pids = world.api_pids()
    rows = {(v[0], c): {"kept": v[0], "clients": c, "samples": [], "secondMs": [],
                        "secondFailed": 0} for v in VARIANTS for c in CLIENTS}
    for _ in range(rounds):
        for variant in VARIANTS:
            proxy = _proxy(world, slot, variant).start()
            target = measure.Target(variant[0], proxy.port, "/api/auth/me", pids,
                                    world.tokens_file)
            for clients in CLIENTS:
                row = rows[variant[0], clients]
                measure.load(target, clients, 1)
                with SecondPath(world, proxy.second_port) as second:
                    row["samples"].append(measure.load(target, clients, seconds))
                row["secondMs"] += second.waits_ms
                row["secondFailed"] += second.failures
            proxy.stop()
        world.trim_logs()
    ours = kept_by_stack(world)
    return [{**_summary(row), "isOurs": row["kept"] == ours} for row in rows.values()]


def _summary(row):
    samples, waits = row.pop("samples"), sorted(row.pop("secondMs"))
    for field in ("perSecond", "perCpuSecond", "p50Ms", "p99Ms", "maxMs"):
        row[field] = measure.figure(samples, field)
    row["refused"] = sum(s["refused"] for s in samples)
    row["failed"] = sum(s["failed"] for s in samples)
    row["secondPassed"] = len(waits)
    row["secondP50Ms"] = waits[len(waits) // 2] if waits else None
    row["secondMaxMs"] = waits[-1] if waits else None
    return row
