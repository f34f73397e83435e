#!/usr/bin/python3
"""make verify: a fleet of a phase under load, with faults, and a verdict; see docs/internals/verify.md.

Writes summary.json, report.html and samples.csv.gz into OUT. Exit status 0: the phase passes; 1: it does
not, or the run was too short to say so; 2: it could not be run.
"""

import argparse
import gzip
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, HERE)

import ledger  # noqa: E402  (beside this file, as all below)
import report  # noqa: E402
import slo as targets  # noqa: E402
import stats  # noqa: E402
from fleet import REPO, Fleet, Refusal  # noqa: E402
from hands import Hands  # noqa: E402
import seed  # noqa: E402
from watch import Watch  # noqa: E402

import psycopg2  # noqa: E402

LOADTEST = os.path.join(REPO, "loadtest")
K6 = os.path.expanduser("~/.cache/maxbooster/k6-v1.8.1/k6")
STANDSTILL_S = 1.6  # of the stack, that no request is dropped for; each of k6's users is a heap to collect
SAY_EVERY_S = 30
FOREIGN_CORES = 0.2  # of other work: from here on it is told in the first sentence
JOBS_WITHIN_S = 120  # what was promised is done this soon after the load


def say(text):
    print(text, flush=True)


class Run:
    """One run: the plan, the generator, the faults, and what came of it."""

    def __init__(self, options):
        self.options = options
        self.slo = targets.read(os.path.join(LOADTEST, "slo.json"))
        self.mix = targets.read(os.path.join(LOADTEST, "scenarios", "mix.json"))
        profiles = targets.read(os.path.join(LOADTEST, "scenarios", "profiles.json"))
        if options.profile not in profiles:
            raise targets.Wrong(f"PROFILE={options.profile} is none of "
                                f"{', '.join(p for p in profiles if p != 'about')}.")
        self.profile = profiles[options.profile]
        self.target = targets.target_of(self.slo, options.phase)
        self.seconds = options.seconds or self.profile["seconds"]
        self.warmup = self.profile.get("warmupS", 0)
        self.faults = []
        if options.faults and self.profile.get("isVerdict"):
            self.faults = targets.read(os.path.join(LOADTEST, "faults.json")).get(str(options.phase), [])
            wrong = ledger.check(self.faults)
            if wrong:
                raise targets.Wrong(f"faults.json, phase {options.phase}: {wrong}.")
        self.out = os.path.abspath(options.out)
        self.fleet = Fleet(options.build, options.phase)
        self.windows, self.samples = [], stats.Samples()

    def path(self, name):
        return os.path.join(self.out, name)

    def write_plan(self):
        browse, logins, uploads = targets.rates(self.target, self.mix, self.options.rate)
        self.rate = {"browsePerS": round(browse, 1), "loginsPerS": logins, "uploadsPerS": uploads}
        peak = max(max(s[1], s[2]) for s in self.profile["stages"])
        limits = {"dropped_iterations": ["count<=0"], "failed": [f"rate<={1 - self.target['availability']:.5f}"],
                  "latency": [f"avg<={self.target['avgMs']}", f"p(99)<={self.target['p99Ms']}"]}
        if self.profile.get("breaks"):
            limits = {k: [{"threshold": t, "abortOnFail": True, "delayAbortEval": "20s"} for t in v]
                      for k, v in limits.items()}
        plan = {**self.rate, "api": self.fleet.api, "seconds": self.seconds, "profile": self.profile,
                "users": self.path("users.json"), "track": self.path("track.mp3"),
                "trackBytes": os.path.getsize(self.path("track.mp3")), "names": seed.NAMES,
                "password": seed.PASSWORD, "seed": seed.SEED, "summary": self.path("k6.json"),
                "vus": max(50, int(STANDSTILL_S * browse * peak)), "thresholds": limits}
        with open(self.path("plan.json"), "w", encoding="utf-8") as f:
            json.dump(plan, f, indent=1)

    def start_generator(self):
        if not os.path.exists(K6):
            raise Refusal(f"{K6} is missing; deploy/bootstrap verify builds it.")
        for name in ("samples.txt", "k6.json"):
            if os.path.exists(self.path(name)):
                os.unlink(self.path(name))
        with open(self.path("k6.log"), "w", encoding="utf-8") as log:
            return subprocess.Popen(
                [K6, "run", "--no-usage-report", "--address", "", "--quiet", "--log-format", "raw",
                 "--console-output", self.path("samples.txt"),
                 os.path.join(LOADTEST, "scenarios", "day.js")],
                env={**os.environ, "PLAN": self.path("plan.json")}, stdin=subprocess.DEVNULL,
                stdout=log, stderr=subprocess.STDOUT, start_new_session=True)

    def await_first_sample(self, k6):
        """The load has begun; its first intended start is the run's time 0."""
        while True:
            if k6.poll() is not None:
                with open(self.path("k6.log"), encoding="utf-8", errors="replace") as f:
                    raise Refusal(f"k6 ended at once ({k6.returncode}): {f.read()[-2000:]}")
            if os.path.exists(self.path("samples.txt")):
                with open(self.path("samples.txt"), encoding="utf-8") as f:
                    line = f.readline()
                if line.endswith("\n") and self.samples.add_line(line):
                    start_ms = float(line.split()[0])
                    self.samples = stats.Samples(start_ms)
                    return
            time.sleep(0.02)

    def now_s(self):
        return time.time() - self.samples.start_ms / 1000

    def make_faults(self):
        """A thread of its own; a fault that cannot be made is told in its row."""
        hands = Hands(self.fleet)
        for fault in self.faults:
            at = self.warmup + fault["at"] * self.seconds
            while self.now_s() < at:
                if self.over.wait(min(0.2, max(0, at - self.now_s()))):
                    return
            name = fault["do"] + (f" {fault['what']}" if "what" in fault else "")
            window = ledger.Window(name, self.now_s(), self.now_s(), fault["share"])
            try:
                window.note, window.recovered_s = hands.do(fault)
                say(f"  {window.start:5.0f} s  {window.note}; recovered in {window.recovered_s:.2f} s")
            except Exception as failure:  # the run goes on; the row says what happened
                window.error = f"{type(failure).__name__}: {failure}"
                say(f"  {window.start:5.0f} s  {name} went wrong: {window.error}")
            window.end = self.now_s() + fault["settleS"]
            self.windows.append(window)

    def load(self):
        """Generator, faults and looks, until the generator ends."""
        k6 = self.start_generator()
        try:
            self.await_first_sample(k6)
            watch = Watch(self.fleet, k6.pid)
            self.over = threading.Event()
            faults = threading.Thread(target=self.make_faults, daemon=True)
            faults.start()
            with open(self.path("samples.txt"), encoding="utf-8") as lines:
                self.follow(k6, lines)
            self.over.set()
            faults.join(60)
        finally:
            if k6.poll() is None:
                os.killpg(k6.pid, signal.SIGKILL)
            k6.wait()
        watch.stop()
        return watch, k6.returncode

    def follow(self, k6, lines):
        """Take samples as they come, and say how it goes."""
        told, kept, rest = time.monotonic(), 0, ""
        while True:
            is_over = k6.poll() is not None
            # A whole block at a time: the generator needs the CPU more than we do.
            for line in (rest + lines.read()).splitlines(keepends=True):
                rest = "" if line.endswith("\n") else line
                if not rest:
                    self.samples.add_line(line)
            if is_over:
                return
            if time.monotonic() - told >= SAY_EVERY_S:
                n = len(self.samples) - kept
                part = sorted(self.samples.ms[kept:])
                failed = sum(1 for i in self.samples.why if i >= kept)
                if part:
                    say(f"  {self.now_s():5.0f} s  {n / (time.monotonic() - told):4.0f} requests/s, avg "
                        f"{sum(part) / n:.1f} ms, p99 {stats.quantile(part, 0.99):.0f} ms, {failed} failed")
                told, kept = time.monotonic(), len(self.samples)
            time.sleep(1)

    def await_jobs(self):
        """What became of the jobs that were promised while the load ran."""
        count = ("SELECT count(*), count(*) FILTER (WHERE status = 'completed'), count(*) FILTER "
                 "(WHERE status IN ('queued', 'processing')) FROM jobs WHERE created_at >= "
                 "to_timestamp(%s)")
        deadline = time.monotonic() + JOBS_WITHIN_S
        while True:
            sums = [0, 0, 0]
            for dsn in self.fleet.shards().values():
                with seed.transaction(dsn) as cursor:
                    cursor.execute(count, (self.samples.start_ms / 1000,))
                    sums = [a + b for a, b in zip(sums, cursor.fetchone())]
            if sums[2] == 0 or time.monotonic() > deadline:
                return {"promised": sums[0], "completed": sums[1], "unfinished": sums[2]}
            time.sleep(0.5)

    def run(self):
        os.makedirs(self.out, exist_ok=True)
        began = time.monotonic()
        say(f"Phase {self.options.phase}, {self.options.profile}: {self.target['users']} users, "
            f"{self.options.rate or self.target['ratePerS']} requests/s for {self.seconds} s, "
            f"{len(self.faults)} faults")
        self.fleet.up(self.options.words)
        seeded = seed.fill(self.fleet, self.target["users"], self.out)
        self.write_plan()
        say(f"Ready and seeded in {time.monotonic() - began:.0f} s: {seeded['users']} users, "
            f"{seeded['tracks']} tracks, {seeded['databaseBytes'] >> 20} MB in PostgreSQL")
        watch, status = self.load()
        jobs = self.await_jobs()
        return self.summary(watch, status, seeded, jobs)

    def summary(self, watch, status, seeded, jobs):
        with open(self.path("k6.json"), encoding="utf-8") as f:
            k6 = {name: m["values"] for name, m in json.load(f)["metrics"].items()}
        figures = stats.figures(self.samples)
        mean, most = watch.generator_cores()
        rows = ledger.rows(self.windows, self.samples, self.target["availability"])
        steady = sum(self.warmup <= at < self.warmup + self.seconds for at in self.samples.at)
        run = {**figures, "seconds": self.seconds, "warmupS": self.warmup, "ledger": rows, "jobs": jobs,
               "ratePerS": steady / self.seconds,
               "droppedIterations": int(k6.get("dropped_iterations", {}).get("count", 0)),
               "generatorCores": mean, "generatorCoresMax": most,
               "lost": int(k6["http_reqs"]["count"]) - figures["requests"]}
        verdict = targets.judge(self.slo, self.target, run)
        is_whole = self.profile.get("isVerdict", False) and self.seconds >= self.slo["limits"]["secondsMin"] \
            and self.options.rate is None and len(self.windows) == len(self.faults) > 0
        target = self.target
        return {
            "phase": self.options.phase, "pass": is_whole and all(r["good"] for r in verdict),
            "users": target["users"], **run, "verdict": verdict, "isWhole": is_whole,
            "scope": scope(self, is_whole, watch.foreign_cores()), "foreignCores": watch.foreign_cores(),
            "target": target, "profile": self.options.profile,
            "rates": self.rate, "byName": self.samples.by_name(), "seeded": seeded,
            "failures": count_up(self.samples.why.values()),
            "server": watch.server_histogram(), "metricsMissed": watch.missed,
            "cpuSeconds": watch.cpu_by_tier(), "machineCores": watch.machine_cores(),
            "generator": {"program": "k6 v1.8.1", "status": status, "vus": k6["vus_max"]["max"],
                          "latency": k6.get("latency"), "cores": mean, "coresMax": most},
            "machine": {"cpus": os.cpu_count(), "system": platform.platform(),
                        "loadAverage": os.getloadavg()},
            "topology": {"instances": len(self.fleet.topology.instances),
                         "databases": len(self.fleet.topology.databases),
                         "shards": len(self.fleet.topology.shards()),
                         "replicas": len(self.fleet.topology.replicas),
                         "redis": len(self.fleet.topology.redis),
                         "workers": [w.program for w in self.fleet.topology.workers],
                         "apiProcesses": self.fleet.value("API_PROCESSES"),
                         "apiThreads": self.fleet.value("API_THREADS")},
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.samples.start_ms / 1000))}, watch


def scope(run, is_whole, foreign_cores):
    """What the figures speak of, in a sentence."""
    target, words = run.target, []
    if target["isInFull"]:
        words.append(f"Phase {run.options.phase} in full: {target['users']:,} users.")
    else:
        words.append(f"Phase {run.options.phase} in miniature, on one machine: {target['users']:,} users, "
                     f"not the {target['usersOfPhase']:,} that the phase is for.")
    if not is_whole:
        words.append("Shortened, without its faults, at another rate or with another profile: this is no "
                     "verdict, whatever the figures say.")
    if foreign_cores > FOREIGN_CORES:
        words.append(f"The machine did other work meanwhile, {foreign_cores:.1f} of its {os.cpu_count()} cores: "
                     "figures are worse for that.")
    return " ".join(words)


def count_up(words):
    found = {}
    for word in words:
        found[word] = found.get(word, 0) + 1
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def write(path, text):
    with open(path + ".new", "w", encoding="utf-8") as f:
        f.write(text)
    os.replace(path + ".new", path)


def keep_samples(run):
    """All requests as CSV, for whoever wants to count again."""
    s = run.samples
    with gzip.open(run.path("samples.csv.gz"), "wt", compresslevel=5, encoding="ascii") as f:
        f.write("intended_s,lateness_ms,latency_ms,name,status,good\n")
        for i in range(len(s)):
            f.write(f"{s.at[i]:.3f},{s.late[i]:.0f},{s.ms[i]:.3f},{s.name[i]},{s.status[i]},{s.good[i]}\n")
    os.unlink(run.path("samples.txt"))


def keep_logs(run):
    """The stack's own words, while it is still there."""
    folder = run.path("log")
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    for name in os.listdir(run.fleet.place.path("log")):
        with open(run.fleet.place.path("log", name), "rb") as source:
            source.seek(0, os.SEEK_END)
            source.seek(max(0, source.tell() - 2_000_000))
            with open(os.path.join(folder, name), "wb") as out:
                out.write(source.read())


def tell(summary):
    """The verdict, for a terminal."""
    say("")
    for row in summary["verdict"]:
        value = f"{row['value']:.5g}" if isinstance(row["value"], float) else row["value"]
        say(f"  {'ok  ' if row['good'] else 'MISS'}  {row['name']}: {value} {row['unit']}"
            f" ({row['sign']} {row['target']:.5g})")
    for row in summary["ledger"]:
        say(f"  {'ok  ' if row['good'] else 'MISS'}  {row['name']}: {row['failed']} of {row['requests']} "
            f"failed, budget {row['budget']:.0f}{' · ' + row['error'] if row['error'] else ''}")
    say(summary["scope"])
    say("PASS" if summary["pass"] else "NO PASS")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--phase", type=int, default=0)
    parser.add_argument("--profile", default="average")
    parser.add_argument("--seconds", type=int, help="of load; shorter than the profile's is no verdict")
    parser.add_argument("--rate", type=int, help="requests a second instead of the phase's")
    parser.add_argument("--no-faults", dest="faults", action="store_false")
    parser.add_argument("--build", default=os.path.join(REPO, "build"))
    parser.add_argument("--out", required=True)
    parser.add_argument("words", nargs="*", metavar="NAME=value", help="settings of the stack")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the stack is dropped
    run = None
    try:
        run = Run(options)
        summary, watch = run.run()
        write(run.path("summary.json"), json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
        write(run.path("report.html"), report.page(summary, run.samples, watch))
        keep_samples(run)
        keep_logs(run)
    except (Refusal, targets.Wrong, OSError, psycopg2.Error) as failure:
        print(f"verify: {failure}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    finally:
        if run is not None:
            run.fleet.down()
    tell(summary)
    say(f"Written: {os.path.relpath(run.out)}/report.html, summary.json, samples.csv.gz")
    return 0 if summary["pass"] else 1


if __name__ == "__main__":
    sys.exit(main())
