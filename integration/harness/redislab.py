"""A Redis server by itself, which can be killed, stopped and started again."""
import contextlib
import pathlib
import signal
import socket
import subprocess

import redis

from .waits import wait_until

PERSISTENT = ("--appendonly", "yes", "--appendfsync", "everysec")


def free_port():
    """A port of the loopback that nobody has now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class RedisServer:
    """Runs from its making on, in a folder that is made for it; client is one of it."""

    def __init__(self, folder, *options, **client):
        self.folder, self.port = pathlib.Path(folder), free_port()
        self.folder.mkdir(parents=True)
        self.options, self.process = options, None
        self.client = redis.Redis(port=self.port, **client)
        self.start()

    def start(self):
        """Start it with what is on its disk."""
        self.process = subprocess.Popen(
            ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder), "--save", "",
             *self.options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(self.answers, 20, "Redis answers")

    def answers(self):
        """Does it?"""
        with contextlib.suppress(redis.RedisError):
            return self.client.ping()
        return False

    def lives(self):
        """Does its process?"""
        return self.process.poll() is None

    def kill(self):
        """kill -9."""
        if self.lives():
            self.process.kill()
            self.process.wait()

    def signal(self, number):
        """Send a signal."""
        if self.lives():
            self.process.send_signal(number)

    @contextlib.contextmanager
    def standing_still(self):
        """It answers nothing while the block runs."""
        self.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.signal(signal.SIGCONT)

    def do(self, *words):
        """A command."""
        return self.client.execute_command(*words)
