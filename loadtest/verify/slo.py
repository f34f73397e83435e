"""The targets of slo.json, and the verdict over a run's figures. Nothing here touches a process."""

import json


class Wrong(Exception):
    """slo.json, mix.json or profiles.json cannot be used; the text says why."""


def read(path):
    with open(path, encoding="utf-8") as f:
        return json.load(f)


NEEDED = {"users": int, "ratePerS": int, "avgMs": int, "p99Ms": int, "availability": float,
          "isInFull": bool, "usersOfPhase": int}


def target_of(slo, phase):
    """The row of a phase, looked over."""
    row = slo["phases"].get(str(phase))
    if row is None:
        known = ", ".join(sorted(slo["phases"]))
        raise Wrong(f"PHASE={phase} has no targets in slo.json; it knows {known}.")
    for name, kind in NEEDED.items():
        if not isinstance(row.get(name), kind):
            raise Wrong(f"slo.json: phase {phase}: {name} is to be of type {kind.__name__}.")
    if not 0 < row["availability"] < 1:
        raise Wrong(f"slo.json: phase {phase}: availability is a share between 0 and 1.")
    return row


def rates(target, mix, rate_per_s=None):
    """(browse, log-ins, uploads) a second, which together make the phase's rate at least.

    An upload makes six requests to the API, and one more for each further look at its job."""
    rate = rate_per_s or target["ratePerS"]
    offered = target["users"] / (mix["thinkS"] + target["avgMs"] / 1000)
    if rate_per_s is None and rate < int(offered):
        raise Wrong(f"{target['users']} users who think for {mix['thinkS']} s make {offered:.0f} "
                    f"requests a second, not {rate}.")
    scale = min(1, rate / 980)
    logins, uploads = mix["loginsPerS"] * scale, mix["uploads"]["perS"] * scale
    logins = max(0.2, round(logins, 1))
    uploads = max(0.1, round(uploads, 1))
    return rate - logins - 6 * uploads, logins, uploads


def needed_requests(slo, availability):
    """Fewest requests that an availability may be claimed from."""
    known = {float(k): v for k, v in slo["limits"]["requestsMin"].items()}
    return next((known[a] for a in sorted(known) if a >= availability), max(known.values()))


def judge(slo, target, run):
    """Rows of {name, unit, target, value, good}: all that must hold for the phase to pass.

    run: figures() of the samples and seconds, ratePerS (warm-up apart), droppedIterations, generatorCoresMax, ledger,
    jobs (promised, completed), lost (requests without a sample)."""
    limits = slo["limits"]
    least = needed_requests(slo, target["availability"])
    ledger = run["ledger"]
    rows = [
        ("average", "ms", "≤", target["avgMs"], run["avgMs"]),
        ("p99", "ms", "≤", target["p99Ms"], run["p99Ms"]),
        ("availability", "", "≥", target["availability"], run["availability"]),
        ("requests, so that the availability means something", "", "≥", least, run["requests"]),
        ("rate", "requests/s", "≥", target["ratePerS"] * 0.995, run["ratePerS"]),
        ("seconds", "s", "≥", limits["secondsMin"], run["seconds"]),
        ("dropped iterations", "", "≤", limits["droppedIterations"], run["droppedIterations"]),
        ("generator's CPU, busiest 5 s", "cores", "≤", limits["generatorCoresMax"],
         run["generatorCoresMax"]),
        ("generator's lateness, p99", "ms", "≤", limits["latenessP99Ms"], run["latenessP99Ms"]),
        ("samples that are missing", "", "≤", 0, run["lost"]),
        ("promised jobs that did not complete", "", "≤", 0,
         run["jobs"]["promised"] - run["jobs"]["completed"]),
        ("faults that overspent their budget", "", "≤", 0, sum(not r["good"] for r in ledger)),
    ]
    return [{"name": name, "unit": unit, "sign": sign, "target": bound, "value": value,
             "good": value <= bound if sign == "≤" else value >= bound}
            for name, unit, sign, bound, value in rows]
