"""replica.py FILE: a PostgreSQL server that follows a primary. Copied into the stack, where launch.py
starts it; FILE is its description (JSON, written by render.py).

The idea: a replica is a copy that may be thrown away. It is made by pg_basebackup over a slot of its
own, which keeps the WAL that it still needs. Where that slot is gone or has lost WAL (the replica was
away for longer than max_slot_wal_keep_size), it can never catch up: then it is stopped and made
again. A server that is not in recovery any more has been promoted; what it holds may be the only
copy, and nothing here touches it.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

LOOK_EVERY_S = 5
PRIMARY_WAIT_S = 0.5


class Replica:
    """One replica, as FILE describes it."""

    def __init__(self, path):
        with open(path, encoding="utf-8") as f:
            self.__dict__.update(json.load(f))
        self.child = None
        self.is_ending = False

    def say(self, text):
        print(f"replica: {text}", flush=True)

    @property
    def is_promoted(self):
        return os.path.exists(self.data) and not os.path.exists(f"{self.data}/standby.signal")

    def environ(self):
        return {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "PGCONNECT_TIMEOUT": "2",
                "PGPASSWORD": self.password}

    def ask(self, sql):
        """Rows of a statement on the primary; None where it does not answer."""
        done = subprocess.run(
            [self.psql, "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", self.conninfo,
             "-c", sql],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
            env=self.environ() | {"PGOPTIONS": "-c statement_timeout=5s"})
        return done.stdout.split() if done.returncode == 0 else None

    def cannot_catch_up(self):
        """Has the slot lost WAL, or gone? False where the primary does not say."""
        # A slot that lost WAL may come to no other end.
        states = self.ask("SELECT coalesce(wal_status, 'lost') FROM pg_replication_slots "
                          f"WHERE slot_name = '{self.slot}'")
        return states is not None and states in ([], ["lost"])

    def seed(self):
        """Make the copy anew, beside its place until it is whole. False: try again later."""
        fresh = self.data + ".new"
        shutil.rmtree(fresh, ignore_errors=True)
        dropped = self.ask("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots "
                           f"WHERE slot_name = '{self.slot}' AND NOT active")
        if dropped is None:
            return False
        done = subprocess.run(
            [self.pg_basebackup, "-D", fresh, "-d", self.conninfo, "-X", "stream", "-c", "fast",
             "-C", "-S", self.slot, "--no-manifest"],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
            env=self.environ())
        if done.returncode != 0:
            self.say(f"no copy: {(done.stderr.strip().splitlines() or ['no word'])[-1]}")
            shutil.rmtree(fresh, ignore_errors=True)
            return False
        with open(f"{fresh}/standby.signal", "w", encoding="ascii"):
            pass
        shutil.rmtree(self.data, ignore_errors=True)
        os.rename(fresh, self.data)
        self.say("copied from the primary")
        return True

    def end(self, *_):
        """A signal: the server ends, and so do we."""
        self.is_ending = True
        if self.child is not None and self.child.poll() is None:
            self.child.send_signal(signal.SIGINT)

    def stop_server(self):
        self.child.send_signal(signal.SIGINT)
        self.child.wait()

    def run_server(self):
        """Run it until it ends (its status) or cannot catch up (None)."""
        self.child = subprocess.Popen(self.argv, cwd=self.data)
        if self.is_ending:  # a signal between the last look and now
            self.end()
        while True:
            try:
                return self.child.wait(LOOK_EVERY_S)
            except subprocess.TimeoutExpired:
                pass
            if not self.is_ending and not self.is_promoted and self.cannot_catch_up():
                self.say("the primary has no WAL for it any more: it is made again")
                self.stop_server()
                return None

    def run(self):
        while not self.is_ending:
            if not self.is_promoted and (not os.path.exists(self.data) or self.cannot_catch_up()):
                if not self.seed():
                    time.sleep(PRIMARY_WAIT_S)
                    continue
            status = self.run_server()
            if status is not None:
                return status
        return 0


def main(path):
    replica = Replica(path)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, replica.end)
    return replica.run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
