"""The migrations on all databases of a stack, several at a time."""

import concurrent.futures
import contextlib
import json
import os
import signal

import psycopg2
import psycopg2.extensions

from .migrate import Failure, Limits, Stop, Target
from .plan import Plan
from .render import APP_ROLE
from .say import Refusal
from .topology import shard_name

AT_ONCE = 8
# Moves of shards, and the newest map, that a database knows, where it has the tables.
OPEN_MOVES = "SELECT id, state FROM shard_moves WHERE state NOT IN ('done', 'aborted')"
NEWEST_MAP = "SELECT epoch, map FROM shard_map ORDER BY epoch DESC LIMIT 1"


def limits_of(environ):
    """Limits, with what MIGRATION_… says."""
    given = {}
    for name, key in (("LOCK_MS", "lock_ms"), ("WAIT_S", "wait_s"), ("STATEMENT_S", "statement_s"),
                      ("INDEX_S", "index_s"), ("OPERATOR_S", "operator_s")):
        value = environ.get(f"MIGRATION_{name}", "")
        if value:
            if not value.isdecimal() or not 1 <= int(value) <= 1000000:
                raise Refusal(f'MIGRATION_{name} is "{value}": allowed is a whole number from 1 to '
                              "1000000.")
            given[key] = int(value)
    return Limits(**given)


def places_of_stack(place, topology, secrets):
    """{shard: connection string} of a local stack."""
    return {s: dsn_of_stack(place, topology.database_of(s), secrets, shard_name(s))
            for s in topology.shards()}


def dsn_of_stack(place, database, secrets, name):
    """Connection string of one of its databases, as the owner."""
    return psycopg2.extensions.make_dsn(host=place.sockets, port=database.port, dbname=name,
                                        user=APP_ROLE, password=secrets["postgres"])


def places_of_config(values):
    """{shard: connection string} of a configuration as the programs read it: SHARD_MAP names the
    number of each shard's database, which is its own where it is empty."""
    count, numbers = values.get("SHARD_COUNT") or "1", values.get("SHARD_MAP") or ""
    if not count.isdecimal() or not values.get("DATABASE_URL"):
        raise Refusal("The configuration has no DATABASE_URL, or no whole number as SHARD_COUNT.")
    numbers = numbers.split(",") if numbers else [str(n) for n in range(int(count))]
    if len(numbers) != int(count) or not all(n.strip().isdecimal() for n in numbers):
        raise Refusal(f"SHARD_MAP must name {count} databases by their numbers, one a shard.")
    places = {}
    for shard, number in enumerate(int(n) for n in numbers):
        name = "DATABASE_URL" if number == 0 else f"DATABASE_SHARD_{number:02d}_URL"
        if not values.get(name):
            raise Refusal(f"The configuration has no {name}.")
        places[shard] = values[name]
    return places


class Migrations:
    """The changes of a folder over databases: {shard: connection string of the owner}."""

    def __init__(self, folder, places, say):
        self.configured, self.say = places, say
        self.plan = Plan(folder)
        self.limits, self.stop = limits_of(os.environ), Stop()

    def places(self):
        """Where the shards are: as configured, or where the newest map says that they have moved
        to."""
        newest = self._newest_map()
        if newest is None:
            return self.configured
        return {s: self._dsn_at(newest["databases"][d]["location"])
                for s, d in enumerate(newest["shards"])}

    def _newest_map(self):
        """The newest map that a configured database has; None: none has one."""
        with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
            return max(pool.map(self._map_in, set(self.configured.values())),
                       key=lambda found: found[0], default=(0, None))[1]

    def _dsn_at(self, location):
        """Connection string of the owner to a location of a map."""
        words = psycopg2.extensions.parse_dsn(self.configured[0])
        owner = {k: words[k] for k in ("user", "password") if k in words}
        return psycopg2.extensions.make_dsn(location, **owner)

    def refuse_while_moving(self):
        """Replication carries no changes of the schema: none may be made until a move of shards is
        cleaned up. An open move is known to the database that it leaves."""
        newest = self._newest_map() or {}
        left = [self._dsn_at(d["location"]) for d in newest.get("retired", [])]
        for dsn in sorted({*self.places().values(), *left}):
            for move, state in self._open_moves(dsn):
                raise Refusal(f"Shards are being moved (move {move} is {state}): the schema must not "
                              "change until maxboosterctl shards clean-up, or abort.")

    @staticmethod
    def _open_moves(dsn):
        try:
            connection = psycopg2.connect(dsn, connect_timeout=5)
        except psycopg2.Error:
            return []  # it is told where it is to be migrated
        with contextlib.closing(connection), connection.cursor() as cursor:
            cursor.execute("SELECT to_regclass('shard_moves') IS NOT NULL")
            if not cursor.fetchone()[0]:
                return []
            cursor.execute(OPEN_MOVES)
            return cursor.fetchall()

    @staticmethod
    def _map_in(dsn):
        try:
            connection = psycopg2.connect(dsn, connect_timeout=5)
        except psycopg2.Error:
            return 0, None  # it is told where it is to be migrated
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT to_regclass('shard_map') IS NOT NULL")
                if not cursor.fetchone()[0]:
                    return 0, None
                cursor.execute(NEWEST_MAP)
                row = cursor.fetchone() or (0, None)
                return row[0], json.loads(row[1]) if isinstance(row[1], str) else row[1]
        finally:
            connection.close()

    def _on_all(self, work):
        """work(target) on each database once, several at a time: {shard: result or Failure}."""
        places = self.places()
        dsns = sorted(set(places.values()))
        names = {dsn: min(s for s, d in places.items() if d == dsn) for dsn in dsns}

        def one(dsn):
            target = Target(dsn, self.plan, self.limits, self.stop,
                            lambda text: self.say(f"shard {names[dsn]:02d} {text}"))
            try:
                return dsn, work(target)
            except (Failure, psycopg2.Error) as failure:
                return dsn, failure if isinstance(failure, Failure) else \
                    Failure(" ".join(str(failure).split()))

        wishes = []
        heeded = signal.signal(signal.SIGINT, lambda *_: wishes.append(1))
        try:
            with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
                found = dict(self._heed(wishes, [pool.submit(one, dsn) for dsn in dsns]))
        finally:
            signal.signal(signal.SIGINT, heeded)
        return {s: found[dsn] for s, dsn in sorted(places.items())}

    def _heed(self, wishes, futures):
        """Wait for the work, and hear Ctrl-C meanwhile. Returns the results."""
        heard = 0
        while concurrent.futures.wait(futures, timeout=0.1).not_done:
            if wishes and heard == 0:
                heard = 1
                self.say("stopping after the changes that are at work; once more to cancel them")
                self.stop.asked.set()
            if len(wishes) > 1 and heard == 1:
                heard = 2
                self.say("stopping")
                self.stop.cancel()
        return [f.result() for f in futures]

    def _locked(self, work):
        def locked(target):
            with target:
                return work(target)
        return self._on_all(locked)

    def _tell(self, results, word):
        """A line for each shard; True if all went well."""
        bad = [s for s, r in results.items() if isinstance(r, Failure)]
        for shard, result in results.items():
            self.say(f"shard {shard:02d} failed: {result}" if shard in bad
                     else f"shard {shard:02d} ok: {word(result)}")
        if bad and len(bad) < len(results):
            self.say(f"{len(results) - len(bad)} of {len(results)} shards are done and stay so; the "
                     f"same command completes {', '.join(f'{s:02d}' for s in bad)}.")
        return not bad

    def deploy(self):
        """Deploy what is missing, everywhere."""
        if self.is_behind():
            self.refuse_while_moving()
        return self._tell(self._locked(lambda t: t.deploy()),
                          lambda done: f"deployed {', '.join(done)}" if done else "up to date")

    def verify(self):
        """Verify what is deployed, everywhere."""
        def verify(target):
            target.look()
            try:
                return target.verify()
            finally:
                target.close()
        return self._tell(self._on_all(verify),
                          lambda pending: f"verified; {pending} pending" if pending else "verified")

    def rollback(self):
        """Revert the newest change of any database, wherever it is deployed."""
        self.refuse_while_moving()
        states = self.states()
        unknown = {s: r for s, r in states.items() if isinstance(r, Failure)}
        if unknown:
            return self._tell(states, lambda _: "nothing was reverted")
        count = max(len(state) for state in states.values())
        if count == 0:
            self.say("Nothing is deployed.")
            return True
        newest = next((c for c in self.plan.changes[count - 1:count]), None)
        if newest is None:
            raise Refusal("The databases have changes that sql/sqitch.plan does not know.")

        def revert(target):
            if len(target.state()) < count:
                return None
            target.revert(newest)
            return newest.name
        return self._tell(self._locked(revert),
                          lambda name: f"reverted {name}" if name else f"had no {newest.name}")

    def states(self):
        """{shard: [(change, script hash)] or Failure}."""
        def look(target):
            target.look()
            try:
                return target.state()
            finally:
                target.close()
        return self._on_all(look)

    def is_behind(self):
        """The shards that lack changes of the plan, or do not fit it."""
        whole = [(c.name, c.hash) for c in self.plan.changes]
        return [s for s, state in self.states().items() if state != whole]

    def deploy_on(self, dsn):
        """Deploy on one database."""
        try:
            with Target(dsn, self.plan, self.limits, self.stop, self.say) as target:
                target.deploy()
        except (Failure, psycopg2.Error) as failure:
            why = "the disk is full; make room, then make up again" \
                if "No space left on device" in str(failure) else failure
            raise Refusal(f"A migration failed on a fresh database: {why}") from None

    def status_lines(self):
        """One line a shard, and whether all are at the plan's end."""
        lines, well = [], True
        for shard, state in self.states().items():
            if isinstance(state, Failure):
                lines.append(f"shard {shard:02d} unknown: {state}")
                well = False
                continue
            pending = len(self.plan.changes) - len(state)
            word = self.plan.judge(state) or (f"{pending} pending" if pending else "up to date")
            well = well and word == "up to date"
            lines.append(f"shard {shard:02d} {word}: {len(state)} of {len(self.plan.changes)} "
                         f"changes, newest {state[-1][0] if state else 'nothing'}")
        return lines, well
