"""The queue's checker: thousands of jobs under a storm of faults, then proofs.

A storm follows from its seed: which faults, when, to whom. What the operating system does with it
differs from run to run; the seed gives the same storm again. Proved of every job whose row was
committed: it ended as it should (none lost), its effect is there once or not at all (none twice),
it began neither early nor late, and artists with work to do were served evenly."""
import collections
import contextlib
import datetime
import json
import random
import signal
import threading
import time

import psycopg2
import psycopg2.extras
import redis

from . import queuelab
from .waits import wait_until

KIND, QUEUE = "audio-convert", "audio"
SHARES = (3, 3, 4, 5, 6, 8)  # backlogs of the artists who are compared
STORM_S = 12
WORKERS, SCHEDULERS, THREADS = 3, 2, 4
LATE_MAX_S = 12  # beyond the time that Redis could not be used: lease, walk, back-off, restarts
JAIN_MIN = 0.95
SETTINGS = {
    "JOB_LEASE_MS": "1000", "JOB_HEARTBEAT_MS": "150", "JOB_BACKOFF_MS": "50",
    "JOB_BACKOFF_MAX_MS": "400", "SCHEDULER_TICK_MS": "100", "REDIS_TIMEOUT_MS": "500",
    "JOB_AUDIO_CONVERT_CONCURRENCY": "100", "JOB_AUDIO_CONVERT_RETRIES": "50",
    "SHARD_COUNT": str(queuelab.SHARDS), "SWEEP_INTERVAL_S": "3600", "S3_RETRIES": "0",
    "S3_TIMEOUT_MS": "200", "S3_ENDPOINT": "http://127.0.0.1:9", "STALLED_MAX": "100",
    "WORKER_NICENESS": "0", "DB_POOL_SIZE": "8"}

Promise = collections.namedtuple("Promise", "job user due payload is_backlog")


class Rows:
    """The jobs as rows, over one connection a shard."""

    def __init__(self, postgres):
        self.connections = []
        for shard in range(queuelab.SHARDS):
            connection = psycopg2.connect(postgres.url(shard))
            connection.autocommit = True
            self.connections.append(connection)
            self._run(shard, "CREATE TABLE IF NOT EXISTS check_effects (job_id uuid, fence bigint,"
                      " at timestamptz DEFAULT clock_timestamp());"
                      "CREATE TABLE IF NOT EXISTS check_runs (job_id uuid, fence bigint,"
                      " at timestamptz DEFAULT clock_timestamp())")

    def _run(self, shard, statement, *arguments):
        with self.connections[shard].cursor() as cursor:
            cursor.execute(statement, arguments)
            return cursor.fetchall() if cursor.description else cursor.rowcount

    def run(self, statement, *arguments):
        """On every shard; all rows."""
        return [row for shard in range(queuelab.SHARDS)
                for row in self._run(shard, statement, *arguments)]

    def empty(self):
        """Forget all."""
        for shard in range(queuelab.SHARDS):
            self._run(shard, "TRUNCATE jobs, job_logs, check_effects, check_runs")

    def insert(self, promises):
        """Commit the promises."""
        for shard, connection in enumerate(self.connections):
            rows = [(p.job, p.user, KIND, json.dumps(p.payload), p.due) for p in promises
                    if queuelab.shard_of(p.job) == shard]
            if rows:
                with connection.cursor() as cursor:
                    psycopg2.extras.execute_values(
                        cursor, "INSERT INTO jobs (id, user_id, type, payload, run_at) VALUES %s",
                        rows)

    def cancel(self, job):
        """As the API cancels; was there something to cancel?"""
        return self._run(queuelab.shard_of(job), "UPDATE jobs SET status = 'cancelled', "
                         "fence = fence + 1, finished_at = now(), updated_at = now() "
                         "WHERE id = %s AND status IN ('queued', 'processing')", job) == 1

    def left(self):
        """How many are not ended."""
        return sum(row[0] for row in self.run(
            "SELECT count(*) FROM jobs WHERE status IN ('queued', 'processing')"))

    def close(self):
        """Hang up."""
        for connection in self.connections:
            connection.close()


class Storm:
    """Faults by a seed."""

    def __init__(self, check, dice):
        self.check, self.world, self.dice = check, check.world, dice
        self.outages, self.told, self._healers = [], [], []
        faults = [self.kill_worker, self.stop_worker, self.kill_scheduler, self.stop_scheduler,
                  self.flush_scripts, self.slow, self.cut, self.full, self.stop_redis]
        self.faults = faults + ([self.kill_redis, self.lose_redis]
                                if self.world.name == "single" else [])

    def plan(self):
        """(second, fault, number that it uses) in order."""
        plan, at = [], 0.5
        while at < STORM_S:
            plan.append((at, self.dice.choice(self.faults), self.dice.random()))
            at += self.dice.uniform(0.3, 1.2)
        if self.world.name == "cluster":
            for fault in (self.migrate, self.fail_over):
                plan.append((self.dice.uniform(1, STORM_S - 4), fault, self.dice.random()))
        else:
            plan.append((self.dice.uniform(1, STORM_S), self.kill_redis, self.dice.random()))
        return sorted(plan, key=lambda step: step[0])

    def rage(self):
        """All of it; back when it is over and all is healed."""
        begun = time.monotonic()
        for at, fault, number in self.plan():
            time_left = begun + at - time.monotonic()
            if time_left > 0:
                threading.Event().wait(time_left)
            self.told.append(f"{time.monotonic() - begun:.1f} {fault.__name__} {number:.2f}")
            fault(number)
        self.end()
        self.world.heal()

    def end(self):
        """Whatever still comes has come."""
        for healer in self._healers:
            healer.join()

    def _later(self, seconds, action):
        healer = threading.Timer(seconds, action)
        healer.start()
        self._healers.append(healer)

    @contextlib.contextmanager
    def _outage(self):
        begun = time.time()
        yield
        self.outages.append((begun, time.time()))

    def _during(self, seconds, begin, end):
        begun = time.time()
        begin()

        def finish():
            with contextlib.suppress(redis.RedisError, OSError):
                end()
            self.outages.append((begun, time.time()))
        self._later(seconds, finish)

    def kill_worker(self, number):
        """kill -9 of one, which comes back."""
        which = int(number * WORKERS)
        self.check.workers[which].kill()
        self._later(0.1 + number, lambda: self.check.start_worker(which))

    def stop_worker(self, number):
        """One stands still, mostly longer than a lease: a zombie."""
        worker = self.check.workers[int(number * WORKERS)]
        worker.signal(signal.SIGSTOP)
        self._later(0.3 + 2 * number, lambda: worker.signal(signal.SIGCONT))

    def kill_scheduler(self, number):
        """kill -9."""
        which = int(number * SCHEDULERS)
        self.check.schedulers[which].kill()
        self._later(0.1 + number, lambda: self.check.start_scheduler(which))

    def stop_scheduler(self, number):
        """One stands still, perhaps the leader."""
        scheduler = self.check.schedulers[int(number * SCHEDULERS)]
        scheduler.signal(signal.SIGSTOP)
        self._later(1 + 6 * number, lambda: scheduler.signal(signal.SIGCONT))

    def flush_scripts(self, _number):
        """Redis forgets the scripts."""
        for node in self.world.nodes:
            with contextlib.suppress(redis.RedisError):
                node.client.script_flush()

    def slow(self, number):
        """Every piece of data takes up to 150 ms more."""
        def delay(seconds):
            for node in self.world.nodes:
                node.link.delay_s = seconds
        self._during(0.5 + number, lambda: delay(0.02 + 0.13 * number), lambda: delay(0))

    def cut(self, _number):
        """All connections break, whatever is on its way."""
        for node in self.world.nodes:
            node.link.cut()

    def full(self, number):
        """Redis takes no more data."""
        def fill(is_full):
            for node in self.world.nodes:
                if node.lives():
                    node.fill(is_full)
        self._during(0.3 + number, lambda: fill(True), lambda: fill(False))

    def stop_redis(self, number):
        """A server stands still; in the cluster not long enough to be replaced."""
        node = self.world.nodes[int(number * len(self.world.nodes))]
        self._during(0.2 + 0.6 * number, lambda: node.signal(signal.SIGSTOP),
                     lambda: node.signal(signal.SIGCONT))

    def kill_redis(self, _number):
        """kill -9; the append-only file has all but the last second."""
        with self._outage():
            self.world.nodes[0].kill()
            self.world.nodes[0].start()

    def lose_redis(self, number):
        """kill -9, and the disk is gone; one time in three."""
        node = self.world.nodes[0]
        with self._outage():
            node.kill()
            if number < 0.33:
                for path in sorted(node.folder.rglob("*"), reverse=True):
                    path.rmdir() if path.is_dir() else path.unlink()
            node.start()

    def migrate(self, _number):
        """The queue's slot moves to another master; again where it stopped half-way, as an operator
        would: a slot that is left between two masters is nobody's after a failover."""
        def is_moved():
            try:
                self.world.migrate(f"{{{QUEUE}}}:jobs")
                return True
            except redis.RedisError:
                return False
        wait_until(is_moved, 30, "the slot to move")

    def fail_over(self, _number):
        """The queue's master is killed and replaced."""
        with self._outage():
            self.world.fail_over(f"{{{QUEUE}}}:jobs")


class Check:
    """One seed."""

    def __init__(self, world, lab, seed, jobs=4000):
        self.world, self.lab, self.seed, self.jobs = world, lab, seed, jobs
        self.dice = random.Random(seed)
        self.rows = Rows(lab.postgres)
        self.workers, self.schedulers = [None] * WORKERS, [None] * SCHEDULERS
        self.promises, self.cancelled = {}, set()
        self._stop = threading.Event()
        urls = {f"DATABASE_SHARD_{n:02d}_URL": lab.postgres.url(n) for n in range(queuelab.SHARDS)}
        self.env = {**SETTINGS, **urls, **world.settings, "WORKER_THREADS": str(THREADS)}
        self._started, self._lock = [], threading.Lock()

    def _start(self, places, which, program, *arguments):
        """Put a process in that place; two faults at once may both want to bring one back."""
        with self._lock:
            if places[which] is not None and places[which].lives():
                return
            log = f"{self.world.name}-{self.seed}-{len(self._started)}.log"
            places[which] = queuelab.Process(program, arguments, self.env, self.lab.folder / log)
            self._started.append(places[which])

    def start_worker(self, which):
        """Put a worker in that place."""
        self._start(self.workers, which, self.lab.worker_program, "--queues", QUEUE)

    def start_scheduler(self, which):
        """The same for a scheduler."""
        self._start(self.schedulers, which, self.lab.scheduler_program)

    def _promise(self, driver, promises, lose=0.0):
        """Commit, then push, which may fail or never happen."""
        self.rows.insert(promises)
        now = datetime.datetime.now(datetime.timezone.utc)
        for p in promises:
            self.promises[p.job] = p
            if self.dice.random() >= lose:
                delay_ms = max(0, int((p.due - now).total_seconds() * 1000))
                with contextlib.suppress(AssertionError):
                    driver.push(KIND, p.user, delay_ms, p.job)

    def _new(self, user, delay_s=0.0, is_backlog=False):
        due = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=delay_s)
        payload = {"ms": self.dice.choice([10, 40, 80]) if is_backlog else self.dice.choice([1, 20]),
                   "fail": 10 if is_backlog else 50}
        if not is_backlog and self.dice.random() < 0.05:
            payload["never"] = True
        return Promise(queuelab.owned_id(user), user, due, payload, is_backlog)

    def _backlog(self, driver):
        users = [queuelab.user_id() for _ in SHARES]
        unit = self.jobs * 7 // 10 // sum(SHARES)
        promises = [self._new(user, is_backlog=True)
                    for user, share in zip(users, SHARES) for _ in range(unit * share)]
        self.dice.shuffle(promises)
        self._promise(driver, promises, lose=0.02)
        return users, unit

    def _feed(self, driver):
        """Jobs of many artists while the storm rages; some with a delay, some cancelled."""
        left = self.jobs - len(self.promises)
        batch = max(1, left // (STORM_S * 5))
        while left > 0 and not self._stop.is_set():
            new = [self._new(queuelab.user_id(), self.dice.choice([0, 0, 0, 0.5, 2]))
                   for _ in range(min(batch, left))]
            self._promise(driver, new, lose=0.05)
            left -= len(new)
            if self.dice.random() < 0.5:
                victim = self.dice.choice(new).job
                if self.rows.cancel(victim):
                    self.cancelled.add(victim)
                    with contextlib.suppress(AssertionError):
                        driver("cancel", KIND, victim)
            self._stop.wait(0.2)

    def run(self):
        """The storm, then the proofs; figures for a line of the report."""
        self.rows.empty()
        self.world.flush()
        driver = queuelab.Driver(self.lab.driver_program, env=self.env)
        storm = Storm(self, random.Random(self.seed + 1000000))
        try:
            users, unit = self._backlog(driver)
            for which in range(SCHEDULERS):
                self.start_scheduler(which)
            for which in range(WORKERS):
                self.start_worker(which)
            feeder = threading.Thread(target=self._feed, args=(driver,))
            feeder.start()
            storm.rage()
            feeder.join()
            wait_until(lambda: self.rows.left() == 0, 90, "every job to end", every=0.2)
            self._is_forgotten(driver)
            figures = self._prove(storm, users, unit)
        finally:
            self._stop.set()
            storm.end()
            for process in self._started:
                process.kill()
            print(f"seed {self.seed} {self.world.name}: {'; '.join(storm.told)}")
        driver.close()
        self.rows.close()
        return figures

    @staticmethod
    def _is_forgotten(driver):
        def is_empty():
            stats = driver("stats", QUEUE)
            return stats["known"] == 0 and stats["leased"] == 0
        wait_until(is_empty, 30, "the queue to forget all jobs", every=0.2)

    def _expected(self, p):
        if p.job in self.cancelled:
            return "cancelled"
        return "failed" if p.payload.get("never") else "completed"

    def _prove(self, storm, users, unit):
        rows = {row[0]: row[1:] for row in self.rows.run(
            "SELECT id::text, status, fence, run_at, started_at, finished_at, stalled, attempts "
            "FROM jobs")}
        effects = collections.defaultdict(list)
        for job, fence in self.rows.run("SELECT job_id::text, fence FROM check_effects"):
            effects[job].append(fence)
        assert rows.keys() == self.promises.keys(), "rows are missing"
        for job, p in self.promises.items():
            status, fence = rows[job][:2]
            assert status == self._expected(p), (job, p, rows[job])
            wanted = [fence] if status == "completed" else []
            assert effects[job] == wanted, (job, rows[job], effects[job])
        late = self._lateness(storm, rows)
        jain, shares = self._jain(users, unit)
        runs = sum(row[0] for row in self.rows.run("SELECT count(*) FROM check_runs"))
        assert late <= LATE_MAX_S, f"{late:.1f} s late beyond the outages"
        assert jain >= JAIN_MIN, f"Jain {jain:.3f} of {shares}"
        return {"jobs": len(rows), "runs": runs, "stalls": sum(row[5] for row in rows.values()),
                "cancelled": len(self.cancelled), "late_s": round(late, 2),
                "jain": round(jain, 3), "shares": shares, "faults": len(storm.told)}

    def _lateness(self, storm, rows):
        """The longest that a job of an artist without a backlog waited, outages taken off."""
        worst = 0.0
        for job, p in self.promises.items():
            started = rows[job][3]
            if p.is_backlog or started is None:
                continue
            assert started >= p.due, f"{job} began {p.due - started} early"
            due, begun = p.due.timestamp(), started.timestamp()
            outages = union([(max(a, due), min(b, begun)) for a, b in storm.outages])
            worst = max(worst, begun - due - outages)
        return worst

    def _jain(self, users, unit):
        """Jain's index of what the artists had got when the smallest backlogs were nearly done; that."""
        order = [user for _, user in sorted(self.rows.run(
            "SELECT e.at, j.user_id::text FROM check_effects AS e JOIN jobs AS j"
            " ON j.id = e.job_id"))]
        got = collections.Counter()
        for user in order:
            if user in users:
                got[user] += 1
                if got[user] >= 0.8 * unit * min(SHARES):
                    break
        shares = [got[user] for user in users]
        jain = sum(shares) ** 2 / (len(shares) * sum(share ** 2 for share in shares))
        return jain, shares


def union(spans):
    """Length of the union of (begin, end)."""
    total, reached = 0.0, float("-inf")
    for begin, end in sorted(spans):
        if end > max(begin, reached):
            total += end - max(begin, reached)
            reached = end
    return total


class Ground:
    """What seeds share: PostgreSQL and the programs."""

    def __init__(self, folder):
        self.folder = folder
        (self.worker_program, self.scheduler_program, self.driver_program) = queuelab.build(
            "loadtest/queue_check_worker", "bin/maxbooster-scheduler", "loadtest/queue_driver")
        self.postgres = queuelab.Postgres()

    def close(self):
        """End it."""
        self.postgres.close()
