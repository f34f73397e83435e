"""What each fault cost of the phase's error budget. Nothing here touches a process.

A fault owns the requests that were meant to start between its beginning and its end, and for settleS
after it; where two overlap, the later one owns them. The budget of the run is (1 - availability) of all
requests; a fault may spend its share of that, and what is to cost nothing has the share 0. Failures
outside of all windows are the last row: they may spend what is left.
"""

from dataclasses import dataclass


@dataclass
class Window:
    """A fault as it happened: seconds from the run's start, and what was seen."""
    name: str
    start: float
    end: float
    share: float       # of the budget
    note: str = ""
    recovered_s: float = None  # from the beginning of the fault, where that is told
    error: str = None  # the fault itself could not be made, or what it needs did not come back


def check(plan):
    """Refuse a plan of faults that overlap or spend more than there is; the reason, or None."""
    spent = sum(f["share"] for f in plan)
    if spent > 1:
        return f"the faults' shares make {spent:.2f} of the budget"
    for one, other in zip(plan, plan[1:]):
        if other["at"] <= one["at"]:
            return f"{other['do']} at {other['at']} does not come after {one['do']} at {one['at']}"
    if any(not 0 < f["at"] < 1 for f in plan):
        return "a fault comes at a share of the run between 0 and 1"
    return None


def rows(windows, samples, availability):
    """One row a window, and one for all else."""
    budget = (1 - availability) * len(samples)
    ordered = sorted(windows, key=lambda w: w.start)
    counts = [[0, 0] for _ in ordered]
    times = [[] for _ in ordered]
    outside = [0, 0]
    last_first = list(enumerate(ordered))[::-1]
    for i, at in enumerate(samples.at):
        for w, window in last_first:
            if window.start <= at <= window.end:
                counts[w][0] += 1
                counts[w][1] += not samples.good[i]
                times[w].append(samples.ms[i])
                break
        else:
            outside[0] += 1
            outside[1] += not samples.good[i]
    told = []
    for window, (n, failed), ms in zip(ordered, counts, times):
        allowed = window.share * budget
        ms.sort()
        told.append({"name": window.name, "startS": window.start, "endS": window.end,
                     "requests": n, "failed": failed, "budget": allowed,
                     "p99Ms": ms[min(len(ms) - 1, int(0.99 * len(ms)))] if ms else None,
                     "maxMs": ms[-1] if ms else None, "note": window.note,
                     "recoveredS": window.recovered_s, "error": window.error,
                     "good": failed <= allowed and window.error is None})
    rest = max(0.0, 1 - sum(w.share for w in ordered)) * budget
    told.append({"name": "all other time", "startS": None, "endS": None, "requests": outside[0],
                 "failed": outside[1], "budget": rest, "p99Ms": None, "maxMs": None, "note": "",
                 "recoveredS": None, "error": None, "good": outside[1] <= rest})
    return told
