"""maxboosterctl readiness: what it proves on a running stack, and that each line can fail."""
import contextlib
import http.server
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading

import pytest
import requests

from harness import audio, tracks
from harness.asking import Asking
from harness.waits import wait_until

pytestmark = pytest.mark.xdist_group("guards")
READINESS_S = 120


def readiness(stack, *words, **variables):
    """Its exit status, and {name: line}."""
    env = {"CONFIG_FILE": str(stack.folder / "stack.env"), "PATH": os.environ["PATH"], **variables}
    done = subprocess.run([str(stack.folder / "bin/maxboosterctl"), "readiness", "--json", *words],
                          env=env, capture_output=True, text=True, timeout=READINESS_S, check=False)
    assert done.stdout, done.stderr
    told = json.loads(done.stdout)
    assert told["ready"] == (done.returncode == 0)
    return done.returncode, {line["name"]: line for line in told["lines"]}


def verdicts(lines):
    """{name: verdict}."""
    return {name: line["verdict"] for name, line in lines.items()}


def at_work(user):
    """Conversions of a user, one after the other, while the block runs."""
    file = audio.upload(user.client, "a.mp3", tracks.short_mp3())

    def work():
        job = user.client.post("/api/audio/convert", {"fileId": file["id"], "format": "flac"},
                               expect=202).json["jobId"]
        audio.wait_job(user.client, job)
    return Asking([work])


@contextlib.contextmanager
def served(handler):
    """The port of a server of ours."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            yield server.server_port
        finally:
            server.shutdown()


def test_what_runs_is_proved_line_by_line(private):
    status, lines = readiness(private)
    assert status == 1
    from_phase_1 = "pass" if private.phase else "not applicable"
    split = "pass" if private.programs_of("replica") else "fail" if private.phase else "not applicable"
    assert verdicts(lines) == {
        "health": "pass", "instances": from_phase_1, "stateless": "pass",
        "read-write-split": split, "refusal-429": "pass", "refusal-503": "pass",
        "local-files": "unknown", "configuration": "pass", "kills": "unknown",
        "queued": "unknown"}, lines["read-write-split"]
    n = len(private.programs_of("api"))
    assert f"every one was answered by each of {n} instances" in lines["stateless"]["evidence"]


def test_no_process_at_work_writes_a_file(private):
    with at_work(private.user()) as work:
        work.go_on(1)
        status, lines = readiness(private, "--only", "local-files", "--trace", "--seconds", "3")
        work.go_on(1)  # the job that the trace saw
    assert not work.bad, work.bad[:3]
    assert verdicts(lines) == {"local-files": "pass"} and status == 0, lines
    assert " 0 of them change local ones" in lines["local-files"]["evidence"]
    assert not re.search(r": 0 calls that open", lines["local-files"]["evidence"])


def test_killed_processes_are_not_noticed(private):
    status, lines = readiness(private, "--kill", "--only", "kills")
    assert verdicts(lines) == {"kills": "pass"} and status == 0, lines
    assert "0 were not answered" in lines["kills"]["evidence"]


def test_processes_that_nobody_replaces_fail_the_line(private):
    """What starts API processes stands still, and as many are killed as there are."""
    if len(private.api_workers()) > 4:
        pytest.skip("four are killed at most, so some would be left")
    keeper = private.main_process("api").pid
    os.kill(keeper, signal.SIGSTOP)
    try:
        status, lines = readiness(private, "--kill", "--only", "kills")
    finally:
        os.kill(keeper, signal.SIGCONT)
    private.wait_ready()
    assert verdicts(lines) == {"kills": "fail"} and status == 1, lines
    assert "1 were not answered" in lines["kills"]["evidence"]


class CarelessEdge(http.server.BaseHTTPRequestHandler):
    """Passes requests on, but not all that their answers say."""
    url = drops = None

    def _pass_on(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "content-length")}
        reply = requests.request(self.command, self.url + self.path, data=body, headers=headers, timeout=30)
        self.send_response(reply.status_code)
        for name, value in reply.headers.items():
            if name.lower() not in ("transfer-encoding", "content-length", "content-encoding", "connection", self.drops):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(reply.content)))
        self.end_headers()
        self.wfile.write(reply.content)

    do_GET = do_POST = _pass_on

    def log_message(self, format, *args):  # pylint: disable=redefined-builtin
        """Says nothing."""


@pytest.mark.parametrize("drops,verdict", [("retry-after", "fail"), ("server", "pass")])
def test_an_edge_that_says_not_when_to_come_again_fails_the_refusals(private, drops, verdict):
    edge = type("Edge", (CarelessEdge,), {"url": private.url, "drops": drops})
    with served(edge) as port:
        for line in ("refusal-503", "refusal-429"):
            status, lines = readiness(private, "--url", f"http://127.0.0.1:{port}", "--only", line)
            assert verdicts(lines) == {line: verdict} and status == (verdict == "fail"), lines


def test_nothing_of_the_probes_is_left(private):
    before = private.ctl("sessions", "count").stdout.split()[0]
    readiness(private)
    assert private.ctl("sessions", "count").stdout.split()[0] == before
    for shard, _ in enumerate(private.shard_urls()):
        assert private.sql(shard, "SELECT count(*) FROM idempotency WHERE fingerprint = %s",
                           "readiness") == [(0,)]


def test_a_limit_that_only_looks_on_fails_its_line(private, tell):
    tell(GUARDS_SHADOW="rate")
    status, lines = readiness(private, "--only", "refusal-429")
    assert status == 1
    assert lines["refusal-429"]["verdict"] == "fail"
    assert "answered 200" in lines["refusal-429"]["evidence"]


def test_values_that_the_environment_does_not_have_fail_the_line(private):
    _, lines = readiness(private, "--only", "configuration", PAGE_LIMIT_MAX="17")
    assert lines["configuration"]["verdict"] == "fail"
    assert "as PAGE_LIMIT_MAX" in lines["configuration"]["evidence"]


def test_a_replica_that_is_none_fails_the_line(private):
    _, lines = readiness(private, "--only", "read-write-split",
                         DATABASE_REPLICA_0_URL=private.shard_urls()[0])
    assert lines["read-write-split"]["verdict"] == "fail"
    assert "is no replica" in lines["read-write-split"]["evidence"]


def test_a_process_that_writes_a_file_fails_the_line(private, tmp_path):
    """Another program under the name of ours, among the fleet's members."""
    program = tmp_path / "maxbooster-writer"
    shutil.copy(os.path.realpath(sys.executable), program)
    script = ("import pathlib, sys\n"
              "print('ready', flush=True)\n"
              "while sys.stdin.read(1):\n"
              "    pathlib.Path(sys.argv[1]).write_text('kept here')\n")
    with subprocess.Popen([program, "-c", script, tmp_path / "state"], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as writer:
        assert writer.stdout.readline() == b"ready\n"
        redis, name = private.redis(), f"9/worker/{socket.gethostname()}:{writer.pid}"
        is_over = threading.Event()

        def beat_and_write():
            while not is_over.wait(0.05):
                seconds, micros = redis.time()
                redis.zadd("config:{fleet}:alive", {name: seconds * 1000 + micros // 1000})
                writer.stdin.write(b"x")
                writer.stdin.flush()
        thread = threading.Thread(target=beat_and_write)
        thread.start()
        try:
            wait_until(lambda: name in private.ctl("config", "members").stdout, 10, "the member")
            _, lines = readiness(private, "--trace", "--seconds", "2", "--only", "local-files")
            _, told = readiness(private, "--only", "configuration")
        finally:
            is_over.set()
            thread.join()
            writer.kill()
            redis.zrem("config:{fleet}:alive", name)
    assert lines["local-files"]["verdict"] == "fail", lines["local-files"]
    assert f"{tmp_path}/state" in lines["local-files"]["evidence"]
    assert told["configuration"]["verdict"] == "fail"  # and it takes arguments


class Door(http.server.BaseHTTPRequestHandler):
    """The door of an instance, with what it tells."""
    page = b""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.page)))
        self.end_headers()
        self.wfile.write(self.page)

    def log_message(self, format, *args):  # pylint: disable=redefined-builtin
        """Says nothing."""


@contextlib.contextmanager
def instance_that_tells(folder, quick):
    """The targets file of one instance, whose routes have each answered 100 requests: {route: how many
    of them within a second}."""
    name, lines = "http_server_request_duration_seconds", []
    for route, count in quick.items():
        labels = f'http_route="{route}",status_class="2xx"'
        lines += [f'{name}_bucket{{{labels},le="1"}} {count}', f"{name}_count{{{labels}}} 100"]
    page = "\n".join(lines).encode() + b"\n"
    with served(type("ADoor", (Door,), {"page": page})) as port:
        targets = folder / "targets.json"
        targets.write_text(json.dumps([{"targets": [f"127.0.0.1:{port}"], "labels": {"instance_id": "2"}}]))
        yield str(targets)


def test_routes_that_have_all_worked_and_quickly_pass_the_line(private, tmp_path):
    paths = private.client().get("/api/openapi.json", expect=200).json["paths"]
    routes = {f"{method.upper()} {re.sub('{[^}]*}', '*', path)}": 99 for path, operations in paths.items()
              if path.startswith("/api/") for method in operations if method in ("get", "post", "put", "patch", "delete")}
    with instance_that_tells(tmp_path, routes) as targets:
        status, lines = readiness(private, "--only", "queued", "--targets", targets)
    assert verdicts(lines) == {"queued": "pass"} and status == 0, lines
    del routes["GET /api/jobs"]
    with instance_that_tells(tmp_path, routes) as targets:
        _, lines = readiness(private, "--only", "queued", "--targets", targets)
    assert lines["queued"]["verdict"] == "unknown"
    assert "1 routes have done nothing yet (GET /api/jobs)" in lines["queued"]["evidence"]


def test_long_work_in_a_request_and_a_silent_instance_fail_their_lines(private, tmp_path):
    with instance_that_tells(tmp_path, {"POST /api/audio/convert": 90}) as targets:
        _, lines = readiness(private, "--targets", targets)
    assert lines["queued"]["verdict"] == "fail"
    assert "POST /api/audio/convert took over 1 s in 10 of 100" in lines["queued"]["evidence"]
    assert lines["instances"]["verdict"] == "fail"  # none of its processes beats
    assert lines["stateless"]["verdict"] == "fail"  # it has answered nothing


def test_an_api_that_is_away_fails_what_it_should_answer(private):
    _, lines = readiness(private, "--url", "http://127.0.0.1:1")
    assert lines["health"]["verdict"] == "fail"
    assert lines["stateless"]["verdict"] == lines["refusal-429"]["verdict"] == "unknown"


@pytest.mark.parametrize("words", [["--only", "nothing"], ["--seconds", "-1"], ["--seconds"], ["--nothing"], ["x"]])
def test_wrong_words_are_told(private, words):
    done = private.ctl("readiness", *words)
    assert done.returncode == 2 and done.stderr
