"""supervisord of a stack: started detached, spoken to over its unix socket."""

import http.client
import os
import socket
import subprocess
import time
import xmlrpc.client

from .say import Refusal

CLEAN_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class _Connection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=60)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class _Transport(xmlrpc.client.Transport):
    def __init__(self, path):
        super().__init__()
        self.path = path

    def make_connection(self, host):
        return _Connection(self.path)


class Supervisor:
    """The running supervisord; every call raises OSError where it is gone."""

    def __init__(self, place):
        self.place = place
        self.rpc = None

    def connect(self):
        """True if it runs and answers."""
        path = f"{self.place.sockets}/supervisor.sock"
        self.rpc = xmlrpc.client.ServerProxy("http://x", transport=_Transport(path)).supervisor
        try:
            return self.rpc.getState()["statename"] == "RUNNING"
        except (OSError, http.client.HTTPException, xmlrpc.client.Error):
            return False

    def start(self):
        """Start it under multiwatch, which restarts it. Holds nothing of the caller's."""
        place = self.place
        null = os.open(os.devnull, os.O_RDWR)
        log = place.path("log", "supervisord-start.log")
        # Opened by the servers' user: the folder is theirs.
        subprocess.run(["/usr/bin/truncate", "-s", "0", log], check=True, **place.as_user())
        subprocess.Popen(
            ["/bin/sh", "-c", 'exec "$@" >>"$0" 2>&1', log,
             "/usr/bin/multiwatch", "-f", "1", "-r", "20", "-t", "500", "-s", "QUIT", "--",
             "/usr/bin/python3", "-I", place.path("lib", "supervise.py"),
             "-c", place.path("conf", "supervisord.conf")],
            stdin=null, stdout=null, stderr=null, close_fds=True, start_new_session=True,
            cwd=place.path("run"), umask=0o077,
            env={"PATH": CLEAN_PATH, "LANG": "C.UTF-8", "TZ": "UTC", "HOME": place.path("tmp"),
                 "TMPDIR": place.path("tmp"), "MAXBOOSTER_STACK": place.root,
                 "MAXBOOSTER_PROGRAM": "supervisor", **sanitizer_options()},
            **place.as_user())
        os.close(null)
        deadline = time.monotonic() + 10
        while not self.connect():
            if time.monotonic() > deadline:
                raise Refusal(f"supervisord does not start; {log} has its words.")
            time.sleep(0.05)

    def update(self):
        """Follow a changed file: stop what is gone, restart what differs, start what is new.

        Returns (removed, changed, added) names.
        """
        added, changed, removed = self.rpc.reloadConfig()[0]
        for name in removed + changed:
            self.rpc.stopProcessGroup(name, False)
        for name in removed + changed:
            self._await_stopped(name)
            self.rpc.removeProcessGroup(name)
        for name in changed + added:
            self.rpc.addProcessGroup(name)
        return removed, changed, added

    def _await_stopped(self, name):
        deadline = time.monotonic() + 60
        while self.info(name)["state"] not in (0, 100, 200):
            if time.monotonic() > deadline:
                raise Refusal(f"{name} does not stop; see its log, then make down.")
            time.sleep(0.05)

    def info(self, name):
        return self.rpc.getProcessInfo(name)

    def all(self):
        return {p["name"]: p for p in self.rpc.getAllProcessInfo()}

    def start_stopped(self):
        """Start what somebody has stopped by hand."""
        started = []
        for name, p in self.all().items():
            if p["state"] in (0, 100, 200):
                try:
                    self.rpc.startProcess(name, False)
                    started.append(name)
                except xmlrpc.client.Fault:
                    pass
        return started

    def signal(self, name, text):
        self.rpc.signalProcess(name, text)

    def stop_softly(self, names):
        """Stop several at once and wait for them."""
        for name in names:
            try:
                self.rpc.stopProcess(name, False)
            except xmlrpc.client.Fault:
                pass
        for name in names:
            self._await_stopped(name)

    def shutdown(self):
        self.rpc.shutdown()


def sanitizer_options():
    """A sanitized build is told how to behave by these alone."""
    return {k: os.environ[k] for k in ("ASAN_OPTIONS", "UBSAN_OPTIONS", "TSAN_OPTIONS")
            if k in os.environ}
