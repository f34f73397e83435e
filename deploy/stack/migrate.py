"""Changes of the schema on one database, by sqitch's plan, scripts and ledger (docs/decisions/
sqitch.md).

A change and its entry in the ledger are one transaction on one connection, which also holds the
lock that keeps a second operator out: a run that dies anywhere leaves a change whole or not at all,
and gives the lock back. An index is built CONCURRENTLY, outside a transaction: its statements may
be repeated, and what a dead run has left half-built is dropped first.
"""

import random
import re
import threading
import time
from dataclasses import dataclass

import psycopg2
import psycopg2.errors

LOCK = 75474063  # sqitch's own advisory lock, so that it and we keep each other out
REGISTRY_VERSION = 1.1
OPERATOR = ("Max Booster", "operator@localhost")
# One word of an SQL script: a text, a comment, a bit of neither.
PIECE = re.compile(r"'(?:[^']|'')*'|--[^\n]*|[^;'-]+|-")
AGAIN = (psycopg2.errors.LockNotAvailable, psycopg2.errors.DeadlockDetected,
         psycopg2.errors.SerializationFailure)
PAUSE_FIRST_S, PAUSE_MOST_S = 0.2, 5.0

# sqitch's registry, version 1.1: its tables and keys, so that sqitch reads and goes on with it.
REGISTRY = """
CREATE SCHEMA IF NOT EXISTS sqitch;
CREATE TABLE sqitch.releases (
    version real PRIMARY KEY, installed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    installer_name text NOT NULL, installer_email text NOT NULL);
CREATE TABLE sqitch.projects (
    project text PRIMARY KEY, uri text UNIQUE,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    creator_name text NOT NULL, creator_email text NOT NULL);
CREATE TABLE sqitch.changes (
    change_id text PRIMARY KEY, script_hash text, change text NOT NULL,
    project text NOT NULL REFERENCES sqitch.projects (project) ON UPDATE CASCADE,
    note text NOT NULL DEFAULT '', committed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    committer_name text NOT NULL, committer_email text NOT NULL, planned_at timestamptz NOT NULL,
    planner_name text NOT NULL, planner_email text NOT NULL, UNIQUE (project, script_hash));
CREATE TABLE sqitch.tags (
    tag_id text PRIMARY KEY, tag text NOT NULL,
    project text NOT NULL REFERENCES sqitch.projects (project) ON UPDATE CASCADE,
    change_id text NOT NULL REFERENCES sqitch.changes (change_id) ON UPDATE CASCADE,
    note text NOT NULL DEFAULT '', committed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    committer_name text NOT NULL, committer_email text NOT NULL, planned_at timestamptz NOT NULL,
    planner_name text NOT NULL, planner_email text NOT NULL, UNIQUE (project, tag));
CREATE TABLE sqitch.dependencies (
    change_id text NOT NULL
        REFERENCES sqitch.changes (change_id) ON UPDATE CASCADE ON DELETE CASCADE,
    type text NOT NULL, dependency text NOT NULL,
    dependency_id text REFERENCES sqitch.changes (change_id) ON UPDATE CASCADE
        CONSTRAINT dependencies_check CHECK ((type = 'require' AND dependency_id IS NOT NULL)
                                             OR (type = 'conflict' AND dependency_id IS NULL)),
    PRIMARY KEY (change_id, dependency));
CREATE TABLE sqitch.events (
    event text NOT NULL CONSTRAINT events_event_check
        CHECK (event IN ('deploy', 'revert', 'fail', 'merge')),
    change_id text NOT NULL, change text NOT NULL,
    project text NOT NULL REFERENCES sqitch.projects (project) ON UPDATE CASCADE,
    note text NOT NULL DEFAULT '', requires text[] NOT NULL DEFAULT '{}',
    conflicts text[] NOT NULL DEFAULT '{}', tags text[] NOT NULL DEFAULT '{}',
    committed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    committer_name text NOT NULL, committer_email text NOT NULL, planned_at timestamptz NOT NULL,
    planner_name text NOT NULL, planner_email text NOT NULL, PRIMARY KEY (change_id, committed_at));
"""

# The oldest transaction that others of this database may wait for.
OLDEST = """
SELECT pid, extract(epoch FROM clock_timestamp() - xact_start)::bigint, state,
       left(regexp_replace(query, '\\s+', ' ', 'g'), 80)
FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start IS NOT NULL
ORDER BY xact_start LIMIT 1"""
HOLDER = """
SELECT a.pid, extract(epoch FROM clock_timestamp() - a.backend_start)::bigint
FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)
WHERE l.locktype = 'advisory' AND l.granted AND l.classid = 0 AND l.objid = %s AND l.objsubid = 1
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"""


@dataclass(frozen=True)
class Limits:
    """How long anything may take.

    A lock that writers feel is waited for lock_ms only, since whoever comes later queues behind us;
    then we step aside and try again, for wait_s in all."""
    lock_ms: int = 1000
    wait_s: int = 60
    statement_s: int = 300
    index_s: int = 3600
    operator_s: int = 30


class Failure(Exception):
    """It did not work here; the message is a sentence for the operator."""


class Stop:
    """An operator's wish to stop: after the change that is at work, or (the second time) now."""

    def __init__(self):
        self.asked = threading.Event()
        self._lock, self._connections = threading.Lock(), set()

    def cancel(self):
        """Cancel whatever is at work."""
        with self._lock:
            for connection in self._connections:
                connection.cancel()

    def watch(self, connection):
        """From now on cancel() meets this connection."""
        with self._lock:
            self._connections.add(connection)

    def forget(self, connection):
        """Not any more."""
        with self._lock:
            self._connections.discard(connection)


def _sentence(error):
    """The server's own words, on one line."""
    return " ".join(str(error).split()) or type(error).__name__


def body_of(script):
    """Statements of a script between BEGIN and its end; None where it runs in no transaction."""
    bare = re.sub(r"\A(?:\s|--[^\n]*\n)*BEGIN\s*;", "", script, flags=re.I)
    if bare == script:
        return None
    return re.sub(r"\b(?:COMMIT|ROLLBACK)\s*;(?:\s|--[^\n]*\n?)*\Z", "", bare, flags=re.I)


def statements_of(script):
    """The statements of a script that runs in no transaction."""
    found = [""]
    at = 0
    while at < len(script):
        piece = PIECE.match(script, at)
        if piece is None:
            found.append("")
            at += 1
        else:
            found[-1] += "" if piece.group().startswith("--") else piece.group()
            at = piece.end()
    return [s.strip() for s in found if s.strip()]


class Target:
    """One database at work. Use it in a with statement: it holds the operators' lock."""

    def __init__(self, dsn, plan, limits, stop, say):
        self.dsn, self.plan, self.limits, self.stop, self.say = dsn, plan, limits, stop, say
        self.connection = None

    def __enter__(self):
        self._connect()
        try:
            self._lock_out_others()
            return self
        except BaseException:
            self.connection.close()
            raise

    def __exit__(self, *_):
        self.stop.forget(self.connection)
        self.connection.close()

    def look(self):
        """A connection without the lock, to read only."""
        self._connect()
        return self

    def close(self):
        """End of look()."""
        self.connection.close()

    def _connect(self):
        try:
            # A server whose client died must not go on and hold the lock.
            self.connection = psycopg2.connect(
                self.dsn, connect_timeout=5, application_name="maxbooster-migrate",
                options="-c client_connection_check_interval=1s -c client_min_messages=warning "
                        "-c idle_in_transaction_session_timeout=60s")
        except psycopg2.Error as error:
            raise Failure(f"it does not answer: {_sentence(error)}") from None
        self.connection.autocommit = True

    def _run(self, sql, *args):
        with self.connection.cursor() as cursor:
            cursor.execute(sql, args or None)
            return cursor.fetchall() if cursor.description else []

    def _lock_out_others(self):
        end = time.monotonic() + self.limits.operator_s
        while not self._run("SELECT pg_try_advisory_lock(%s)", LOCK)[0][0]:
            if time.monotonic() >= end or self.stop.asked.wait(0.1):
                holder = self._run(HOLDER, LOCK)
                who = f"session {holder[0][0]}, since {holder[0][1]} s" if holder else "just now"
                raise Failure(f"another migration is at work on it ({who}); wait until it is done, "
                              "then run this again")
        self.stop.watch(self.connection)

    # What is deployed

    def state(self):
        """[(change, script hash)], in the order of deployment."""
        if self._run("SELECT to_regclass('sqitch.changes') IS NULL")[0][0]:
            return []
        return self._run("SELECT change, script_hash FROM sqitch.changes WHERE project = %s "
                         "ORDER BY committed_at", self.plan.project)

    def _fitting_state(self):
        state = self.state()
        why = self.plan.judge(state)
        if why is not None:
            raise Failure(why)
        return state

    # The three things to do

    def deploy(self):
        """Deploy what is missing. Returns the names."""
        done = []
        state = self._fitting_state()
        if self._run("SELECT to_regclass('sqitch.changes') IS NULL")[0][0]:
            self._in_transaction(self._make_registry)
        for change in self.plan.changes[len(state):]:
            if self.stop.asked.is_set():
                raise Failure(f"stopped before {change.name}, as you asked; run again to go on")
            self._change(change, change.deploy, lambda c=change: self._enter(c))
            done.append(change.name)
        self._in_transaction(self._record_tags)
        return done

    def revert(self, change):
        """Revert this change, which must be the newest."""
        state = self._fitting_state()
        if not state or state[-1][0] != change.name:
            raise Failure(f"{change.name} is not its newest change")
        self._change(change, change.revert, lambda: self._strike(change))

    def verify(self):
        """Run the verify scripts of what is deployed. Returns how many changes are pending."""
        state = self._fitting_state()
        for change in self.plan.changes[:len(state)]:
            self._verify(change)
        return len(self.plan.changes) - len(state)

    # How

    def _change(self, change, script, record):
        body = body_of(script)
        if body is None:
            self._build(change, script)
            self._patiently(change, lambda: self._in_transaction(record))
        else:
            self._patiently(change, lambda: self._in_transaction(
                lambda: (self._run(body), record())))

    def _in_transaction(self, work):
        limits = self.limits
        self._run("BEGIN")
        try:
            self._run(f"SET LOCAL lock_timeout = {limits.lock_ms}; "
                      f"SET LOCAL statement_timeout = '{limits.statement_s}s'")
            work()
            self._run("COMMIT")
        except BaseException:
            if not self.connection.closed:
                self._run("ROLLBACK")
            raise

    def _patiently(self, change, work):
        """Try again while others hold what it needs, and let them pass in between."""
        end, pause, tries = time.monotonic() + self.limits.wait_s, PAUSE_FIRST_S, 0
        while True:
            tries += 1
            try:
                return work()
            except AGAIN as error:
                blame = self._blame()
                if time.monotonic() + pause >= end or self.stop.asked.is_set():
                    raise Failure(f"{change.name}: no lock in {tries} tries within "
                                  f"{self.limits.wait_s} s; {blame}; nothing of it is done, run "
                                  "this again later") from None
                self.say(f"{change.name}: {_sentence(error)}; {blame}; trying again")
            except psycopg2.Error as error:
                raise self._failure(change, error) from None
            # Unlike each other, so that databases do not try in step.
            self.stop.asked.wait(pause * random.uniform(0.5, 1.0))
            pause = min(pause * 2, PAUSE_MOST_S)

    def _blame(self):
        oldest = self._run(OLDEST)
        if not oldest:
            return "nobody holds a transaction now"
        pid, age_s, state, query = oldest[0]
        return f"the oldest transaction is that of session {pid} ({age_s} s, {state}: {query})"

    def _failure(self, change, error):
        if isinstance(error, psycopg2.errors.QueryCanceled):
            why = "cancelled" if self.stop.asked.is_set() else "took too long"
            return Failure(f"{change.name}: {why}; nothing of it is done")
        if self.connection.closed:
            return Failure(f"{change.name}: the connection broke ({_sentence(error)}); it is whole "
                           "or not done: run this again")
        return Failure(f"{change.name}: {_sentence(error)}; nothing of it is done")

    def _build(self, change, script):
        """Run statements outside a transaction. Waiting for old transactions stops nobody here, so
        only the whole has a limit."""
        try:
            self._run(f"SET lock_timeout = 0; SET statement_timeout = '{self.limits.index_s}s'")
            for statement in statements_of(script):
                self._drop_half_built(statement)
                self._run(statement)
        except psycopg2.Error as error:
            raise self._failed_build(change, error) from None
        finally:
            if not self.connection.closed:
                self._run("RESET lock_timeout; RESET statement_timeout")

    def _failed_build(self, change, error):
        """An index that is not valid costs writers and may refuse their rows: it must not stay."""
        failure = self._failure(change, error)
        if not self.connection.closed:
            try:
                self._run("SET statement_timeout = '60s'")
                for statement in statements_of(change.deploy):
                    self._drop_half_built(statement)
            except psycopg2.Error:
                self.say(f"{change.name}: an index of it is left half-built; the next run drops it")
        return failure

    def _drop_half_built(self, statement):
        match = re.match(r"CREATE\s+(?:UNIQUE\s+)?INDEX\s+CONCURRENTLY\s+IF\s+NOT\s+EXISTS\s+(\S+)",
                         statement, re.I)
        if match is None:
            return
        bad = self._run("SELECT 1 FROM pg_index WHERE indexrelid = to_regclass(%s) "
                        "AND NOT indisvalid", match.group(1))
        if bad:
            self.say(f"index {match.group(1)} was left half-built: dropped")
            self._run(f"DROP INDEX CONCURRENTLY IF EXISTS {match.group(1)}")

    def _verify(self, change):
        self._run("BEGIN")
        try:
            self._run("SET LOCAL statement_timeout = '60s'")
            self._run(body_of(change.verify))
        except psycopg2.Error as error:
            raise Failure(f"{change.name} does not verify: {_sentence(error)}") from None
        finally:
            if not self.connection.closed:
                self._run("ROLLBACK")

    # The ledger

    def _make_registry(self):
        self._run(REGISTRY)
        self._run("INSERT INTO sqitch.releases (version, installer_name, installer_email) "
                  "VALUES (%s, %s, %s)", REGISTRY_VERSION, *OPERATOR)
        self._run("INSERT INTO sqitch.projects (project, creator_name, creator_email) "
                  "VALUES (%s, %s, %s)", self.plan.project, *OPERATOR)

    def _enter(self, change):
        """Verify a change and enter it, in its transaction: what does not verify is not done."""
        self._run("SAVEPOINT verified")
        self._run(body_of(change.verify))
        self._run("ROLLBACK TO SAVEPOINT verified")
        ids = {c.name: c.id for c in self.plan.changes}
        self._run("INSERT INTO sqitch.changes (change_id, script_hash, change, project, note, "
                  "committer_name, committer_email, planned_at, planner_name, planner_email) "
                  "VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
                  change.id, change.hash, change.name, self.plan.project, change.note, *OPERATOR,
                  change.date, change.planner, change.email)
        for name in change.requires:
            self._run("INSERT INTO sqitch.dependencies (change_id, type, dependency, dependency_id) "
                      "VALUES (%s, 'require', %s, %s)", change.id, name, ids[name])
        self._record_event("deploy", change)

    def _strike(self, change):
        self._run("DELETE FROM sqitch.tags WHERE change_id = %s", change.id)
        self._run("DELETE FROM sqitch.changes WHERE change_id = %s", change.id)
        self._record_event("revert", change)

    def _record_event(self, event, change):
        self._run("INSERT INTO sqitch.events (event, change_id, change, project, note, requires, "
                  "tags, committer_name, committer_email, planned_at, planner_name, planner_email) "
                  "VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
                  event, change.id, change.name, self.plan.project, change.note,
                  list(change.requires), [t.name for t in change.tags], *OPERATOR, change.date,
                  change.planner, change.email)

    def _record_tags(self):
        for change in self.plan.changes:
            for tag in change.tags:
                self._run("INSERT INTO sqitch.tags (tag_id, tag, project, change_id, note, "
                          "committer_name, committer_email, planned_at, planner_name, "
                          "planner_email) SELECT %s, %s, %s, %s, %s, %s, %s, %s, %s, %s "
                          "WHERE EXISTS (SELECT FROM sqitch.changes WHERE change_id = %s) "
                          "ON CONFLICT DO NOTHING", tag.id, tag.name, self.plan.project, change.id,
                          tag.note, *OPERATOR, tag.date, tag.planner, tag.email, change.id)
