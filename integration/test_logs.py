"""The request log: one JSON line each, complete, nothing secret, nothing injected."""
import json
import re
import secrets
import uuid

import pytest

from harness import audio, mail, tracks
from harness.client import random_email

# Words of those that start our programs, in the same file.
KEEPER = re.compile(r"(Child\[\d+\] |multiwatch|spawn-fcgi|launch: )")
TIMES = ["totalUs", "guardUs", "poolWaitUs", "dbUs", "redisUs", "s3Us", "handlerUs", "writeUs"]


def traced(client, method, path, **options):
    """A request with an id of its own; its reply and its one log line."""
    request_id = "log-" + uuid.uuid4().hex
    headers = options.pop("headers", {}) | {"X-Request-Id": request_id}
    return request_id, client.request(method, path, headers=headers, **options)


def the_line(stack, request_id):
    """The one line of a request."""
    lines = [line for line in stack.log_lines(request_id) if line["event"] == "request"]
    assert len(lines) == 1, lines
    return lines[0]


def our_lines(stack):
    """Every line that our programs have written, parsed."""
    lines = []
    for log in stack.log_files():
        if not re.match(r"(api|worker|scheduler)", log.name):
            continue
        for line in log.read_text(errors="strict").split("\n"):
            if line and not KEEPER.match(line):
                assert len(line.encode()) <= 4096
                lines.append(json.loads(line))
    return lines


def test_a_request_is_one_line_with_everything_about_it(stack, user):
    request_id, reply = traced(user.client, "GET", "/api/auth/me", expect=200)
    line = the_line(stack, request_id)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
    assert line["route"] == "GET /api/auth/me"
    assert line["method"] == "GET"
    assert line["status"] == reply.status == 200
    assert line["address"] == user.client.address
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", line["traceparent"])
    assert line["shard"] == stack.shard_of(user.id)
    assert user.id not in json.dumps(line)
    assert line["userHash"]
    for name in TIMES:
        assert isinstance(line[name], int) and line[name] >= 0, name


def test_the_parts_of_the_time_add_up(stack, user):
    request_id, _ = traced(user.client, "GET", "/api/auth/me", expect=200)
    line = the_line(stack, request_id)
    parts = line["guardUs"] + line["handlerUs"] + line["writeUs"]
    assert parts <= line["totalUs"] + 50
    assert line["totalUs"] - parts < max(2000, 0.3 * line["totalUs"])
    assert line["poolWaitUs"] + line["dbUs"] + line["redisUs"] + line["s3Us"] <= line["totalUs"]


def test_a_trace_is_taken_on(stack, client):
    trace = secrets.token_hex(16)
    request_id, _ = traced(client, "GET", "/api/auth/me",
                           headers={"traceparent": f"00-{trace}-{secrets.token_hex(8)}-01"})
    assert the_line(stack, request_id)["traceparent"].split("-")[1] == trace


def test_a_trace_goes_down_into_the_job(stack, user):
    trace = secrets.token_hex(16)
    file = audio.upload(user.client, "a.mp3", tracks.short_mp3())
    reply = user.client.post("/api/audio/waveform", {"fileId": file["id"]}, expect=202,
                             headers={"traceparent": f"00-{trace}-{secrets.token_hex(8)}-01"})
    audio.wait_job(user.client, reply.json["jobId"])

    def job_lines():
        found = []
        for log in stack.log_files():
            if "worker" in log.name:
                found += [line for line in log.read_text().splitlines()
                          if reply.json["jobId"] in line]
        return found
    from harness.waits import wait_until
    lines = [json.loads(line) for line in wait_until(job_lines, 10, "the job's log line")]
    assert any(trace in line.get("traceparent", "") for line in lines)


def test_a_failure_tells_its_code_in_the_log_and_its_cause_only_there(stack, client):
    request_id, reply = traced(client, "GET", "/api/audio/9b2f61d4-0199-8a4b-9c3d-7f6a5b4c3d2e",
                               expect=404)
    assert the_line(stack, request_id)["code"] == reply.code == "not_found"


@pytest.mark.parametrize("method,path,body,most", [
    ("GET", "/api/system/health", None, {"dbCount": 0, "redisCount": 0, "s3Count": 0,
                                         "arenaBytes": 32768}),
    ("GET", "/api/auth/me", None, {"dbCount": 1, "redisCount": 1, "s3Count": 0,
                                   "arenaBytes": 65536}),
    ("GET", "/api/audio", None, {"dbCount": 1, "redisCount": 1, "s3Count": 0,
                                 "arenaBytes": 131072}),
    ("GET", "/api/jobs", None, {"dbCount": 1, "redisCount": 1, "s3Count": 0, "arenaBytes": 131072}),
    ("POST", "/api/audio/upload-url", {"fileName": "a.mp3", "contentType": "audio/mpeg", "size": 9},
     {"dbCount": 1, "redisCount": 1, "s3Count": 0, "arenaBytes": 65536}),
    # The cached profile goes too, by a script that Redis may have to be told first.
    ("PATCH", "/api/auth/me", {"name": "Z"}, {"dbCount": 4, "redisCount": 3, "s3Count": 0,
                                              "arenaBytes": 65536}),
    ("GET", "/api/nothing", None, {"dbCount": 0, "redisCount": 0, "s3Count": 0,
                                   "arenaBytes": 65536})])
def test_a_route_keeps_to_its_budget(stack, client, method, path, body, most):
    traced(client, method, path, json=body)  # a Redis node that has not seen the script is told it once
    request_id, _ = traced(client, method, path, json=body)
    line = the_line(stack, request_id)
    if method == "POST" and stack.programs_of("replica"):
        most = most | {"redisCount": most["redisCount"] + 1}  # how far replicas must be for the writer's next read
    for name, bound in most.items():
        assert line[name] <= bound, (name, line[name])


INJECTIONS = ['"}\\n{"event":"forged"', '\\",\\"status\\":200,\\"x\\":\\"',
              "%0a%7b%22event%22:%22forged%22%7d", "\u2028{}",
              "%1b%5b31m", "${jndi:ldap://evil}", "%s%n%x", "\\", "\\u0022",
              "'; DROP TABLE users--", "<script>"]


@pytest.mark.parametrize("attempt", INJECTIONS)
def test_a_path_cannot_forge_a_line(stack, client, attempt):
    from urllib.parse import quote
    path = "/api/none/" + quote(attempt, safe="%$;'<>{}()-:/\\")
    _, reply = traced(client, "GET", path)
    assert reply.status in (400, 404)
    request_id, _ = traced(client, "GET", "/api/none/after", expect=404)
    the_line(stack, request_id)
    assert "forged" not in {line["event"] for line in our_lines(stack)}


@pytest.mark.parametrize("field", ["User-Agent", "Referer", "X-Forwarded-For", "Cookie",
                                   "Authorization", "traceparent", "Origin"])
def test_a_header_cannot_forge_a_line(stack, client, field):
    for attempt in ('"}', '","status":999,"a":"', "a\t{", "\\", 'x" "event":"forged'):
        request_id, _ = traced(client, "GET", "/api/none", headers={field: attempt})
        assert the_line(stack, request_id)["status"] == 404


def test_no_secret_is_in_any_log(stack, mailbox):
    """What passes through the system in secret, looked for in every byte of every log."""
    account = stack.user()
    unique = "secret " + uuid.uuid4().hex
    hidden = {"token": account.client.token, "password": account.password}
    stack.client().post("/api/auth/login", {"email": account.email, "password": unique})
    stack.client().post("/api/auth/register", {"email": "not an address", "password": unique,
                                               "name": "x"})
    stack.client().get(f"/api/nothing?token={account.client.token}", expect=404)
    stack.client().get("/api/auth/me", headers={"Cookie": f"session={account.client.token}"},
                       expect=200)
    grant = audio.store(account.client, "a.mp3", tracks.short_mp3())
    file = audio.complete(account.client, grant["key"], expect=201).json
    url = account.client.get(f"/api/audio/{file['id']}/url").json["url"]
    audio.download(url)
    audio.wait_job(account.client, account.client.post("/api/audio/waveform",
                                                       {"fileId": file["id"]}).json["jobId"])
    stack.client().post("/api/auth/password/forgot", {"email": account.email}, expect=202)
    reset = mail.reset_token_of(mailbox.wait_for(account.email, "password"))
    env = stack.env
    for name, value in env.items():
        if re.search("SECRET|PASSWORD", name) and len(value) > 7:
            hidden[name] = value
    for name in ("REDIS_URL", "DATABASE_URL", "DATABASE_SHARD_00_URL"):
        found = re.search(r"(?:://[^:@/]*:|password=)([^@\s]+)", env.get(name, ""))
        if found:
            hidden[name] = found.group(1)
    hidden |= {"typed password": unique, "reset token": reset,
               "upload signature": grant["url"].split("Signature=")[1][:64],
               "download signature": url.split("Signature=")[1][:64], "e-mail": account.email}
    for log in stack.log_files():
        content = log.read_bytes()
        for what, value in hidden.items():
            assert value.encode() not in content, f"{what} in {log.name}"


def test_every_line_of_our_programs_is_json(stack):
    for line in our_lines(stack):
        assert {"time", "level", "program", "event"} <= set(line), line


def test_unknown_accounts_leave_no_trace_of_their_address(stack):
    email = random_email()
    request_id, _ = traced(stack.client(), "POST", "/api/auth/login",
                           json={"email": email, "password": "whatever it is"})
    assert email not in json.dumps(the_line(stack, request_id))
