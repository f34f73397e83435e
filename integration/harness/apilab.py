"""An API instance of a test's own beside those of a stack: other settings, asked by FastCGI."""
import contextlib
import json
import os
import pathlib
import subprocess
import tempfile
import time

from . import fastcgi, fired
from .waits import wait_until

ASK_S = 30


def params(method, path, token=None, age_s=0.0, **more):
    """What the proxy would send."""
    found = {"REQUEST_METHOD": method, "REQUEST_URI": path, "REMOTE_ADDR": "198.18.7.7",
             "REQUEST_START": f"{time.time() - age_s:.3f}", **more}
    if token:
        found["HTTP_AUTHORIZATION"] = f"Bearer {token}"
    return found


def directly(socket, method, path, token=None, document=None, **options):
    """(status, answer) that an API process gives without the proxy."""
    body = b"" if document is None else json.dumps(document).encode()
    if body:
        options |= {"CONTENT_TYPE": "application/json", "CONTENT_LENGTH": str(len(body))}
    answer = fastcgi.ask(socket, fastcgi.request(params(method, path, token, **options), body), ASK_S)
    return (int(answer.split(" ", 2)[1]) if answer else 0), answer


class Instance:
    """An instance that runs; its socket, and what can be asked of it."""

    def __init__(self, socket):
        self.socket = socket

    def ask(self, method, path, token=None, document=None, **options):
        """(status, document); (0, None) where there was no answer."""
        status, answer = directly(self.socket, method, path, token, document, **options)
        body = answer.partition("\r\n\r\n")[2]
        return status, json.loads(body) if body.startswith("{") else None

    def status(self):
        """What readiness tells."""
        return self.ask("GET", "/api/system/status")[1]

    def metrics(self):
        """{name with labels: value}."""
        _, answer = directly(self.socket, "GET", "/metrics")
        return fired.samples(answer.partition("\r\n\r\n")[2])


@contextlib.contextmanager
def api_instance(stack, name, processes=1, **values):
    """Starts one, with the stack's settings but for values; gone at the end."""
    env = {"CONFIG_FILE": str(stack.folder / "stack.env"), **values}
    with api_of(stack.folder / "bin/maxbooster-api", name, processes, **env) as found:
        yield found


@contextlib.contextmanager
def api_of(program, name, processes=1, **values):
    """The same by program and settings."""
    with tempfile.TemporaryDirectory(prefix="mb-api-") as folder:
        path = f"{folder}/{name}.sock"
        shm = f"/dev/shm/{pathlib.Path(folder).name}"
        env = {"PATH": os.environ["PATH"], "INSTANCE_ID": name, "INSTANCE_SHM": shm,
               "API_PROCESSES": str(processes), **{k: str(v) for k, v in values.items()}}
        process = subprocess.Popen(
            ["/usr/bin/spawn-fcgi", "-n", "-s", path, "-b", "1024", "--", "/usr/bin/multiwatch", "-f",
             str(processes), "-s", "QUIT", "--", str(program)], env=env,
            stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
        try:
            found = Instance(path)
            wait_until(lambda: os.path.exists(path) and found.ask("GET", "/api/system/health")[0] == 200,
                       10, f"{path} to answer")
            yield found
        finally:
            process.terminate()
            process.wait(30)
            pathlib.Path(shm).unlink(missing_ok=True)
