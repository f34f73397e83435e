"""lib/s3 and lib/smtp by themselves: their driver, a real S3 server, a peer that does as told."""
import contextlib
import dataclasses
import http.server
import os
import pathlib
import queue
import select
import signal
import socket
import subprocess
import threading

from .queuelab import free_port
from .s3client import s3_client
from .waits import wait_until

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
VERSITYGW = "~/.cache/maxbooster/versitygw-v1.8.0/versitygw"
ACCESS_KEY, SECRET_KEY, REGION, BUCKET = "labkey", "lab/secret+key", "us-east-1", "lab-bucket"

NGINX_CONF = """
{user} daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
    access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    client_max_body_size 0;
    upstream s3 {{ server 127.0.0.1:{s3_port}; keepalive 8; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://s3; proxy_http_version 1.1; proxy_set_header Connection "";
            proxy_set_header Host $http_host; proxy_request_buffering on;
        }}
    }}
}}
"""


def build_driver():
    """Build loadtest/s3_driver with the Makefile's own flags; its path."""
    san = os.environ.get("SAN", "")
    build = os.environ.get("MB_BUILD") or ("build/" + san if san else "build")
    rule = ("$(B)/loadtest/s3_driver: $(B)/obj/loadtest/s3_driver.o $(B)/lib.a ; "
            "@mkdir -p $(@D) && $(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS_LIB)")
    target = f"{build}/loadtest/s3_driver"
    subprocess.run(["make", "-s", f"B={build}", f"--eval={rule}", target], cwd=ROOT, check=True)
    return ROOT / target


@dataclasses.dataclass
class Result:
    """One line of the driver's output."""

    error: str
    ms: int
    count: int
    words: list

    @property
    def cause(self):
        """Why it failed."""
        return self.words[0]


class Driver:
    """A running driver, configured by environment variables."""

    def __init__(self, program, **env):
        self._process = subprocess.Popen(
            [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0,
            env={"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
                 "AWS_REGION": REGION, "S3_BUCKET": BUCKET,
                 **{name: str(value) for name, value in env.items()}})

    def send(self, *words):
        """Begin a command; answer() has its result."""
        line = "\t".join("-" if w is None else str(w) for w in words)
        self._process.stdin.write(line.encode() + b"\n")

    def answer(self, seconds=60):
        """The result of the command that is running."""
        ready, _, _ = select.select([self._process.stdout], [], [], seconds)
        assert ready, f"no answer of the driver within {seconds} s"
        line = self._process.stdout.readline().decode().rstrip("\n")
        assert line, f"the driver ended with {self._process.poll()}"
        error, ms, count, *words = line.split("\t")
        return Result(error, int(ms), int(count), words)

    def __call__(self, *words, expect="OK"):
        self.send(*words)
        result = self.answer()
        assert result.error == expect, result
        return result

    def presign(self, method, key, content_type=None, length=None, upload_id=None, part=0,
                name=None, ttl=900):
        """A presigned URL."""
        return self("presign", method, key, content_type, length, upload_id, part, name,
                    ttl).words[0]

    def close(self):
        """End it; it must end well."""
        self._process.stdin.close()
        assert self._process.wait(10) == 0
        self._process.stdout.close()


class Gateway:
    """versitygw with an empty bucket, and nginx before it as in a stack."""

    def __init__(self, folder):
        self.folder = folder
        self.port, self.front_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.front_url = f"http://127.0.0.1:{self.front_port}"
        self.program = os.path.expanduser(os.environ.get("MB_VERSITYGW", VERSITYGW))
        (folder / "data" / BUCKET).mkdir(parents=True)
        (folder / "versions").mkdir()
        (folder / "nginx.conf").write_text(NGINX_CONF.format(
            folder=folder, port=self.front_port, s3_port=self.port,
            user="user root;" if os.geteuid() == 0 else ""))
        self.process = None
        self.start()
        self._nginx = subprocess.Popen(["/usr/sbin/nginx", "-c", str(folder / "nginx.conf"),
                                        "-e", str(folder / "error.log")])
        self._wait(self.front_port)

    @staticmethod
    def _wait(port):
        def is_up():
            with contextlib.closing(socket.create_connection(("127.0.0.1", port), 1)):
                return True
        wait_until(is_up, 20, f"a server on port {port}")

    def start(self):
        """Start versitygw and wait until it listens."""
        self.process = subprocess.Popen(
            [self.program, "--port", f"127.0.0.1:{self.port}", "--region", REGION, "--quiet",
             "--keep-alive", "posix", "--versioning-dir", str(self.folder / "versions"),
             str(self.folder / "data")],
            env={"ROOT_ACCESS_KEY": ACCESS_KEY, "ROOT_SECRET_KEY": SECRET_KEY, "HOME": "/tmp"},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._wait(self.port)

    def client(self):
        """A client of it, past nginx."""
        return s3_client(self.url, REGION, ACCESS_KEY, SECRET_KEY)

    def kill(self):
        """kill -9 of versitygw."""
        self.process.kill()
        self.process.wait()

    def freeze(self):
        """It keeps its connections and answers nothing. A thread that runs stops a moment later."""
        self.process.send_signal(signal.SIGSTOP)
        wait_until(self._stands_still, 5, "the server to stand still")

    def _stands_still(self):
        threads = pathlib.Path(f"/proc/{self.process.pid}/task").glob("*/stat")
        return all(t.read_text().rpartition(")")[2].split()[0] == "T" for t in threads)

    def thaw(self):
        """The end of freeze()."""
        self.process.send_signal(signal.SIGCONT)

    def close(self):
        """End both."""
        self.kill()
        self._nginx.terminate()
        self._nginx.wait(10)


@dataclasses.dataclass
class Request:
    """What the peer was asked."""

    method: str
    target: str
    headers: dict
    body: bytes


class Peer:
    """An HTTP server that gives the answers it was told, in order; the last one again and again.

    An answer is (status, headers, body), or "lost": read the request, close without a reply."""

    def __init__(self):
        self.requests = []
        self._answers = queue.SimpleQueue()
        self._last = (200, {}, b"")
        peer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            """One connection."""

            protocol_version = "HTTP/1.1"

            def _answer(self):
                length = int(self.headers.get("Content-Length") or 0)
                request = Request(self.command, self.path, dict(self.headers),
                                  self.rfile.read(length))
                answer = peer.next_answer(request)
                if answer == "lost":
                    self.close_connection = True
                    return
                status, headers, body = answer
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _answer

            def log_message(self, *_):
                """Say nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def next_answer(self, request):
        """The answer to a request; it is recorded."""
        self.requests.append(request)
        with contextlib.suppress(queue.Empty):
            self._last = self._answers.get_nowait()
        return self._last

    def answers(self, *answers):
        """Forget what was; answer so from now on."""
        self.requests.clear()
        while not self._answers.empty():
            self._answers.get()
        for answer in answers:
            self._answers.put(answer)

    def close(self):
        """End it."""
        self._server.shutdown()
        self._server.server_close()
