"""Health, readiness, configuration, metrics, and the document of the API."""
import json
import re
import urllib.parse

import pytest

from harness import audio, contract, tracks
from harness.client import Client, the_contract


def test_health_answers_ok_and_nothing_else(api):
    assert api.get("/api/system/health", expect=200).json == {"status": "ok"}


def test_health_needs_no_session_and_is_not_charged_to_a_limit(api):
    reply = api.get("/api/system/health", expect=200)
    assert "RateLimit" not in reply.headers


def test_status_tells_every_dependency_with_its_latency(stack, api):
    status = api.get("/api/system/status", expect=200).json
    for name in ("database", "redis", "storage", "queue"):
        check = status["checks"][name]
        assert check["status"] == "ok", (name, check)
        assert 0 <= check["latencyMs"] < 5000
    assert status["degradation"]["level"] in range(5)  # what acts is other tests' doing
    assert status["phase"] == stack.phase


def test_openapi_document_is_the_one_of_this_tree(api):
    served = api.get("/api/openapi.json", expect=200).json
    assert served == json.loads(json.dumps(the_contract().document))


def test_openapi_document_names_every_route_of_the_table(api):
    served = contract.Contract(api.get("/api/openapi.json", expect=200).json)
    assert set(served.operations) == set(contract.keys_of_route_table())


def test_configuration_is_for_administrators_only(api, client):
    api.get("/api/system/config", expect=401)
    client.get("/api/system/config", expect=403)


def test_configuration_shows_values_and_masks_every_secret(stack, admin):
    reply = admin.get("/api/system/config", expect=200)
    items = {item["name"]: item for item in reply.json["items"]}
    env = stack.env
    assert items["SHARD_COUNT"]["value"] == env["SHARD_COUNT"]
    assert items["S3_BUCKET"]["value"] == "maxbooster-uploads"
    for name, item in items.items():
        if item["secret"]:
            assert item["value"] in ("", "***"), name
    for name, value in env.items():
        if re.search("SECRET|PASSWORD|DATABASE_.*URL|^DATABASE_URL|REDIS_URL|ACCESS_KEY",
                     name) and len(value) > 8:
            assert value not in reply.text, name


def test_an_administrator_made_by_the_operators_tool_may_see_the_configuration(stack):
    from harness.client import random_email
    email, password = random_email(), "an operator's long secret"
    done = stack.ctl("user", "create-admin", email, "Operator", text=password + "\n")
    assert done.returncode == 0, done.stdout + done.stderr
    assert password not in done.stdout + done.stderr
    client = stack.client()
    reply = client.post("/api/auth/login", {"email": email, "password": password}, expect=200)
    assert reply.json["user"]["role"] == "admin"
    client.token = reply.json["token"]
    client.get("/api/system/config", expect=200)


def test_metrics_count_requests_over_all_processes_of_the_instance(stack, api):
    def health_count():
        wanted = 'http_server_request_duration_seconds_count{http_route="GET /api/system/health"'
        return sum(value for name, value in stack.metrics().items() if name.startswith(wanted))
    before = health_count()
    for _ in range(20):
        api.get("/api/system/health", expect=200)
    assert health_count() >= before + 20


def test_metrics_never_leave_by_the_public_address(stack, api):
    api.get("/metrics", expect=404)
    for disguise in ("/metrics/", "//metrics", "/api/../metrics", "/%6detrics", "/api/metrics"):
        reply = api.get(disguise)
        assert reply.status in (400, 404), (disguise, reply)


def test_the_cache_before_s3_is_told_which_urls_are_ours(stack, user):
    file = audio.upload(user.client, "a.mp3", tracks.short_mp3())
    url = urllib.parse.urlsplit(user.client.get(f"/api/audio/{file['id']}/url").json["url"])
    target = f"{url.path}?{url.query}"
    inner = Client(stack.metrics_url.removesuffix("/metrics"))

    def asked(target, host=url.netloc):
        return inner.get("/presigned", headers={"X-S3-Target": target, "Host": host}, checked=True)
    ours = asked(target)
    assert ours.status == 204
    assert 'filename="a.mp3"' in ours.headers["X-Content-Disposition"]
    for other in (target[:-1], target + "0", url.path, "/", target.replace("audio", "static", 1)):
        assert asked(other).code == "unauthenticated", other
    assert asked(target, host="localhost").status == 401
    stack.client().get("/presigned", headers={"X-S3-Target": target}, expect=404)


def test_the_edge_is_told_of_by_the_inner_address_only(stack, api):
    Client(stack.metrics_url.removesuffix("/metrics")).post("/edge", expect=204)
    api.post("/edge", expect=404)
    api.post("/edge_told", expect=404)


def test_an_unknown_path_is_a_problem_404(api):
    for path in ("/", "/api", "/api/", "/api/nothing", "/index.html", "/api/system/health/"):
        reply = api.get(path, expect=404)
        assert reply.code == "not_found"


@pytest.mark.parametrize("path,allowed", [
    ("/api/system/health", {"GET"}), ("/api/auth/login", {"POST"}),
    ("/api/auth/me", {"GET", "PATCH"}),
    ("/api/audio", {"GET"}), ("/api/jobs/9b2f61d4-0199-8a4b-9c3d-7f6a5b4c3d2e", {"GET", "DELETE"})])
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
def test_a_wrong_method_is_told_the_right_ones(client, path, allowed, method):
    if method in allowed:
        return
    reply = client.request(method, path, expect=405)
    named = {word.strip() for word in reply.headers["Allow"].split(",")}
    assert allowed <= named <= allowed | {"HEAD", "OPTIONS"}


@pytest.mark.parametrize("method", ["TRACE", "PROPFIND", "FOO"])
def test_methods_that_nobody_takes_are_refused(api, method):
    reply = api.request(method, "/api/system/health")
    assert reply.status in (400, 405), reply


def test_head_is_get_without_a_body(api):
    got = api.get("/api/system/health", expect=200)
    head = api.request("HEAD", "/api/system/health", expect=200)
    assert head.content == b""
    assert head.headers["Content-Type"] == got.headers["Content-Type"]


def test_a_well_formed_request_id_is_taken_over(api):
    reply = api.get("/api/system/health", headers={"X-Request-Id": "track-0001_a.b"}, expect=200)
    assert reply.headers["X-Request-Id"] == "track-0001_a.b"


@pytest.mark.parametrize("bad", ["short", "x" * 65, 'with "quotes" in', "a,b,c,d,e,f",
                                 "<script>alert(1)</script>",
                                 "${jndi:ldap://x}"])
def test_a_malformed_request_id_is_replaced(api, bad):
    reply = api.get("/api/nothing", headers={"X-Request-Id": bad}, expect=404)
    assert reply.headers["X-Request-Id"] != bad
    assert bad not in reply.text


def test_every_reply_carries_the_security_headers(client):
    for path in ("/api/system/health", "/api/auth/me", "/api/nothing", "/nothing"):
        headers = client.get(path).headers
        assert headers["X-Content-Type-Options"] == "nosniff", path
        assert "default-src 'none'" in headers["Content-Security-Policy"], path
        assert headers["X-Frame-Options"] == "DENY", path
        assert "Referrer-Policy" in headers, path
        assert not re.search(r"\d", headers.get("Server", "")), path


def test_private_answers_are_not_for_caches(client):
    assert "no-store" in client.get("/api/auth/me", expect=200).headers["Cache-Control"]


def test_limits_are_told_with_every_answer(stack, client):
    reply = client.get("/api/auth/me", expect=200)
    quota = int(re.search(r"q=(\d+)", reply.headers["RateLimit-Policy"]).group(1))
    assert quota == int(stack.env["RATE_LIMIT_MAX"])
    left = int(re.search(r"r=(\d+)", reply.headers["RateLimit"]).group(1))
    assert 0 <= left < quota


def test_critical_routes_have_a_limit_of_their_own(stack, api):
    reply = api.post("/api/auth/password/forgot", {"email": "nobody@example.org"}, expect=202)
    quota = int(re.search(r"q=(\d+)", reply.headers["RateLimit-Policy"]).group(1))
    assert quota == int(stack.env["RATE_LIMIT_CRITICAL_MAX"])


def test_the_operators_page_comes_by_the_inner_address_only(stack, api):
    base, _, _ = stack.metrics_url.partition("/metrics")
    inner = Client(base)
    page = inner.get("/dashboard/dashboard.html", expect=200, checked=False)
    assert page.headers["Content-Type"].startswith("text/html")
    policy = page.headers["Content-Security-Policy"]
    assert "script-src 'self'" in policy and "unsafe" not in policy
    for name, kind in re.findall(r'(?:src|href)="(dashboard\.(css|js))"', page.text):
        reply = inner.get(f"/dashboard/{name}", expect=200, checked=False)
        assert kind in reply.headers["Content-Type"].replace("javascript", "js")
    script = inner.get("/dashboard/dashboard.js", checked=False).text
    for path in re.findall(r'fetch\("([^"]+)"\)', script):
        inner.get(path, expect=200, checked=False)
    inner.get("/dashboard/../nginx.conf", expect=404, checked=False)
    inner.get("/dashboard/stack.env", expect=404, checked=False)
    api.get("/dashboard/dashboard.html", expect=404)


def test_prometheus_finds_the_instances(stack):
    targets = json.loads((stack.folder / "conf/targets.json").read_text())
    assert [t["labels"]["instance_id"] for t in targets] == [
        str(n) for n, _ in enumerate(stack.programs_of("api"), 1)]
    for target in targets:
        reply = Client(f"http://{target['targets'][0]}").get("/metrics", expect=200, checked=False)
        assert "maxbooster_processes" in reply.text


def test_behind_tls_browsers_are_told_to_stay_there(api):
    """The stack trusts the loopback's X-Forwarded-Proto, as from a load balancer that ends TLS."""
    for path in ("/api/system/health", "/api/nothing"):
        reply = api.get(path, headers={"X-Forwarded-Proto": "https"})
        assert reply.headers["Strict-Transport-Security"] == "max-age=31536000; includeSubDomains"
        assert "Strict-Transport-Security" not in api.get(path).headers


def test_our_programs_gain_no_privileges_and_leave_no_core(stack):
    """The media child is one of the worker's, and locked further."""
    for program in [p for kind in ("api", "worker", "scheduler") for p in stack.programs_of(kind)]:
        ours = [p for p in stack.processes(program) if "maxbooster-" in p.text.split(" ")[0]
                or "maxbooster-" in p.text]
        pids = [p.pid for p in ours if "multiwatch" not in p.text and "spawn-fcgi" not in p.text]
        assert pids, program
        for pid in pids:
            with open(f"/proc/{pid}/status", encoding="ascii") as file:
                assert re.search(r"^NoNewPrivs:\s1$", file.read(), re.M), (program, pid)
            with open(f"/proc/{pid}/limits", encoding="ascii") as file:
                assert re.search(r"^Max core file size\s+0\s+0", file.read(), re.M), (program, pid)


def test_workers_and_schedulers_tell_their_metrics_by_the_inner_address(stack):
    base, _, _ = stack.metrics_url.partition("/metrics")
    inner = Client(base)
    workers, schedulers = stack.programs_of("worker"), stack.programs_of("scheduler")
    for name in workers:
        text = inner.get(f"/metrics/{name}", expect=200, checked=False).text
        assert "\nmaxbooster_worker_threads " in text
    leads = [inner.get(f"/metrics/{name}", expect=200, checked=False).text.count(
        "\nmaxbooster_scheduler_leading 1\n") for name in schedulers]
    assert sum(leads) == 1
    inner.get("/metrics/nobody", expect=404, checked=False)
    targets = json.loads((stack.folder / "conf/targets_jobs.json").read_text())
    assert {t["labels"]["program"] for t in targets} == {*workers, *schedulers}


def test_metrics_are_told_as_openmetrics_to_whoever_asks_so(stack):
    base, _, _ = stack.metrics_url.partition("/metrics")
    reply = Client(base).get("/metrics", headers={"Accept": "application/openmetrics-text"}, expect=200)
    assert reply.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    lines = reply.text.splitlines()
    assert lines[-1] == "# EOF" and lines.count("# EOF") == 1 and "" not in lines
    types = {line.split(" ")[2]: line.split(" ")[3] for line in lines if line.startswith("# TYPE ")}
    for line in lines[:-1]:
        if not line.startswith("#"):
            name = re.match(r"[a-z_0-9]+", line).group(0)
            family = re.sub(r"_(total|bucket|sum|count)$", "", name)
            kind = types[family] if family in types else types[name]
            assert (kind == "counter") == name.endswith("_total"), line
