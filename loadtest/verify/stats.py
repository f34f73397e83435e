"""Figures and how sure they are. Nothing in here touches a file, a clock or a process.

Requests that fail or are slow come in bunches, so intervals that take each request for a draw of its own
(Wilson's, order statistics) are too narrow; the bootstrap over blocks of time says what the bunches
allow. Both are told.
"""

import array
import bisect
import math
import random

Z95 = 1.959964  # two-sided 95 % of the normal distribution
GROWTH = 1.02   # a bucket of Buckets is 2 % wide
LEAST_MS = 0.01


def quantile(ordered, q):
    """The nearest rank: the least value that a share q of all does not exceed."""
    if not ordered:
        raise ValueError("no values")
    return ordered[min(len(ordered) - 1, max(0, math.ceil(q * len(ordered)) - 1))]


def wilson(good, n, z=Z95):
    """Interval of a share (E. B. Wilson, 1927); holds near 0 and 1 too."""
    if n == 0:
        return 0.0, 1.0
    p, z2 = good / n, z * z
    middle = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = z / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def quantile_interval(ordered, q, z=Z95):
    """Interval of a quantile by order statistics: ranks around n q, by the binomial's spread."""
    n = len(ordered)
    half = z * math.sqrt(n * q * (1 - q))
    low, high = math.floor(n * q - half) - 1, math.ceil(n * q + half)
    return ordered[max(0, low)], ordered[min(n - 1, high)]


class Buckets:
    """Latencies of a block of time, in buckets of 2 %: enough for a quantile of many blocks."""

    EDGES = [LEAST_MS * GROWTH ** i for i in range(int(math.log(120000 / LEAST_MS, GROWTH)) + 2)]

    def __init__(self):
        self.counts = {}
        self.n = self.bad = 0
        self.sum_ms = 0.0

    def add(self, ms, is_good):
        i = bisect.bisect_left(self.EDGES, ms)
        self.counts[i] = self.counts.get(i, 0) + 1
        self.n += 1
        self.bad += not is_good
        self.sum_ms += ms


def together(blocks):
    """(mean, p99, availability) of several blocks."""
    n = sum(b.n for b in blocks)
    counts = {}
    for b in blocks:
        for i, c in b.counts.items():
            counts[i] = counts.get(i, 0) + c
    left, p99 = n - math.ceil(0.99 * n), 0.0
    for i in sorted(counts, reverse=True):
        p99 = Buckets.EDGES[min(i, len(Buckets.EDGES) - 1)]
        left -= counts[i]
        if left < 0:
            break
    return sum(b.sum_ms for b in blocks) / n, p99, 1 - sum(b.bad for b in blocks) / n


def bootstrap(blocks, rounds=300, seed=1):
    """95 % intervals of together(), from blocks drawn again with replacement (B. Efron, 1979; blocks of
    time, since neighbours are alike: H. R. Künsch, 1989). None where there are too few blocks."""
    blocks = [b for b in blocks if b.n]
    if len(blocks) < 10:
        return None
    draw = random.Random(seed)
    drawn = [together(draw.choices(blocks, k=len(blocks))) for _ in range(rounds)]
    cut = max(0, int(0.025 * rounds))
    return [(column[cut], column[-1 - cut]) for column in (sorted(c) for c in zip(*drawn))]


class Samples:
    """Requests in columns: intended start (s from the run's start), lateness and latency (ms), name,
    status, good or not, and why not."""

    def __init__(self, start_ms=0.0):
        self.start_ms = start_ms
        self.at, self.late, self.ms = array.array("d"), array.array("d"), array.array("d")
        self.status, self.good = array.array("H"), array.array("B")
        self.name, self.why = [], {}

    def __len__(self):
        return len(self.at)

    def add_line(self, line):
        """A line as loadtest/scenarios/lib/client.js writes it; False where it is none."""
        words = line.split()
        if len(words) < 6:
            return False
        try:
            row = float(words[0]), float(words[1]), float(words[2]), int(words[4]), int(words[5])
        except ValueError:
            return False
        self.at.append((row[0] - self.start_ms) / 1000)
        self.late.append(row[1])
        self.ms.append(row[2])
        self.name.append(words[3])
        self.status.append(row[3])
        self.good.append(row[4])
        if not row[4]:
            self.why[len(self.at) - 1] = f"{words[3]} {row[3]} {words[6] if len(words) > 6 else ''}".strip()
        return True

    def bad(self):
        """Numbers of the requests that failed, by time."""
        return sorted(self.why, key=lambda i: self.at[i])

    def blocks(self, seconds):
        """Buckets of each block of so many seconds."""
        found = []
        for at, ms, good in zip(self.at, self.ms, self.good):
            i = max(0, int(at // seconds))
            while len(found) <= i:
                found.append(Buckets())
            found[i].add(ms, good)
        return found

    def by_name(self):
        """{name: (n, failed, mean, p50, p99, most)}, the most frequent first."""
        groups = {}
        for i, name in enumerate(self.name):
            groups.setdefault(name, []).append(i)
        told = {}
        for name, rows in sorted(groups.items(), key=lambda item: -len(item[1])):
            ordered = sorted(self.ms[i] for i in rows)
            told[name] = {"n": len(rows), "failed": sum(not self.good[i] for i in rows),
                          "avgMs": sum(ordered) / len(rows), "p50Ms": quantile(ordered, 0.5),
                          "p99Ms": quantile(ordered, 0.99), "maxMs": ordered[-1]}
        return told


def figures(samples, block_s=10):
    """The run's figures with their intervals."""
    n, ordered = len(samples), sorted(samples.ms)
    failed = len(samples.why)
    blocks = samples.blocks(block_s)
    again = bootstrap(blocks)
    mean, p99 = sum(ordered) / n, quantile(ordered, 0.99)
    intervals = {"availability": {"wilson95": wilson(n - failed, n)},
                 "p99Ms": {"order95": quantile_interval(ordered, 0.99)}, "avgMs": {}}
    if again:
        for name, pair in zip(("avgMs", "p99Ms", "availability"), again):
            intervals[name]["blocks95"] = pair
    return {"requests": n, "failed": failed, "avgMs": mean, "p50Ms": quantile(ordered, 0.5),
            "p95Ms": quantile(ordered, 0.95), "p99Ms": p99, "p999Ms": quantile(ordered, 0.999),
            "maxMs": ordered[-1], "availability": (n - failed) / n, "intervals": intervals,
            "latenessP99Ms": quantile(sorted(samples.late), 0.99)}


def cumulative(values, bounds):
    """Counts per bound (upper, inclusive) and one for the rest, as a histogram of /metrics has them."""
    counts = [0] * (len(bounds) + 1)
    for value in values:
        counts[bisect.bisect_left(bounds, value)] += 1
    return counts
