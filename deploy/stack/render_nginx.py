"""nginx's configuration, from proxy/: limits from the settings, problem pages from lib/err.def."""

import json
import re

from . import settings
from .say import Refusal

WORKERS = 2
CONNECTIONS = 8192       # per nginx worker; a request takes two
KEPT_PER_WORKER = 64     # measured: see docs/decisions/kept-connections.md
CACHE_MAX = "1g"         # of objects, on disk

DASHBOARD = ("dashboard.html", "dashboard.css", "dashboard.js")

# Status that nginx gives: (status told, row of err.def, detail for the client).
PROBLEMS = {
    400: (400, "BAD_REQUEST", "The request line, a header field or the path is not well-formed."),
    403: (403, "FORBIDDEN", "The proxy does not let this through."),
    404: (404, "NOT_FOUND", "No such path; all of the API lies under /api."),
    405: (405, "METHOD_NOT_ALLOWED", "The method is not in use here."),
    408: (408, "REQUEST_TIMEOUT", "The request did not arrive in time."),
    413: (413, "PAYLOAD_TOO_LARGE", "The body is larger than this address takes."),
    414: (414, "URI_TOO_LONG", "The request line is longer than 8 KiB."),
    429: (429, "RATE_LIMITED", "Too many requests from this client; wait, then try again."),
    431: (431, "HEADERS_TOO_LARGE", "A header field is longer than 8 KiB, or all are over 32 KiB."),
    500: (500, "INTERNAL", "The proxy failed; the error log has the cause."),
    503: (503, "DEPENDENCY_UNAVAILABLE", "The server behind the proxy does not answer; try again."),
}
# What nginx says : the page of PROBLEMS that stands for it.
SAME_AS = {411: 400, 415: 400, 416: 400, 421: 400, 494: 431, 495: 400, 496: 400, 497: 400,
           501: 400, 505: 400, 502: 503, 504: 503, 507: 503}
RETRY_AFTER_S = {429: 1, 503: 2, 408: 1, 500: 1}


def _errors(repo):
    """err.def as {ROW: (code, title)}."""
    with open(f"{repo}/lib/err.def", encoding="utf-8") as f:
        rows = re.findall(r'^ERR\((\w+), \d+, "([^"]*)", "([^"]*)"', f.read(), flags=re.M)
    return {name: (code, title) for name, code, title in rows}


def problems(repo, conf, edge, is_s3=False):
    """The error_page lines and one internal location per page."""
    errors = _errors(repo)
    out = ["# From lib/err.def: what nginx itself refuses."]
    for status in PROBLEMS:
        out.append(f"error_page {status} /problem/{status};")
    for status, page in SAME_AS.items():
        if is_s3 and status == 416:  # a cached object's range: the status says it all
            continue
        out.append(f"error_page {status} ={page} /problem/{page};")
    for status, (told, row, detail) in PROBLEMS.items():
        code, title = errors[row]
        body = json.dumps({"type": f"/problems/{code}", "title": title, "status": told,
                           "detail": detail, "instance": "@rid@", "code": code,
                           "requestId": "@rid@"}, separators=(",", ":"))
        if "'" in body or "$" in body or "\\" in body:
            raise Refusal(f"lib/err.def: the title of {row} cannot be quoted for nginx.")
        body = body.replace("@rid@", "${rid}")
        out += [f"location = /problem/{status} {{", "    internal;",
                "    default_type application/problem+json;",
                f"    include {conf}/security_headers.conf;",
                "    add_header Cache-Control no-store always;"]
        if is_s3:
            out.append("    add_header Access-Control-Allow-Origin * always;")
        if status == 405:
            out.append('    add_header Allow "GET, HEAD, POST, PUT, PATCH, DELETE" always;')
        if status == 429 and not is_s3:
            out += [f"    include {edge}/policy.conf;", "    post_action /edge_told;"]
        if status in RETRY_AFTER_S:
            wait = RETRY_AFTER_S[status]
            out.append(f"    add_header Retry-After {wait} always;")
        out += [f"    return {told} '{body}';", "}"]
    return "\n".join(out) + "\n"


class Shift:
    """An instance whose pools change: the new one, which the topology names, has this share of what
    the instance gets, the old one the rest."""

    def __init__(self, instance, old_program, percent):
        self.instance, self.old_program, self.percent = instance, old_program, percent


def _servers(place, topology, shift):
    """(socket, its weight as nginx says it) of every pool that serves."""
    def sock(program):
        return f"unix:{place.sockets}/{program}.sock"
    for i in topology.instances:
        if shift is None or shift.percent == 100:
            yield sock(i.program), ""
        elif i.number == shift.instance:
            yield sock(i.program), f" weight={shift.percent}"
            yield sock(shift.old_program), f" weight={100 - shift.percent}"
        else:
            yield sock(i.program), " weight=100"


def _upstream(place, topology, shift=None):
    """Least connections over the instances. One that does not answer is left alone for a second."""
    servers = list(_servers(place, topology, shift))
    lines = ["    upstream api {"]
    if len(topology.instances) == 1:
        # Twice: nginx tries another "server" where a connection fails, and here that is the same.
        lines += [f"        server {s}{w} max_fails=0;" for s, w in servers] * 2
    else:
        lines += ["        zone api 128k;  # nginx's workers know the same", "        least_conn;"]
        lines += [f"        server {s}{w} max_fails=2 fail_timeout=1s;" for s, w in servers]
        # When all have failed within the second, they are asked all the same: one may be back.
        lines += [f"        server {s} max_fails=0 backup;" for s, _ in servers]
    # nginx closes a kept connection, never the API: no request is lost on one that is being
    # closed, connections spread over new processes, and a stopping process gets free.
    lines += [f"        keepalive {KEPT_PER_WORKER};", "        keepalive_timeout 2s;",
              "        keepalive_time 1s;", "        keepalive_requests 500;"]
    return "\n".join(lines + ["    }"])


def _doors(topology):
    """The metrics of workers and schedulers, each by its name."""
    return [f"        location = /metrics/{program} {{ proxy_pass http://127.0.0.1:{port}/metrics; }}"
            for program, port in topology.doors().items()]


def _metrics_servers(place, topology):
    """One inner address per instance; PORT_BASE+2 is instance 1's."""
    out = []
    for i in topology.instances:
        ports = ([topology.metrics_port] if i.number == 1 else []) + [i.metrics_port]
        out += ["    server {"] + [f"        listen 127.0.0.1:{p};" for p in ports]
        out += [
            "        server_name _;",
            f"        include {place.path('conf', 'problems.conf')};",
            f"        include {place.path('conf', 'security_headers.conf')};",
            "        client_max_body_size 1k;",
            "        location = /metrics {",
            f"            include {place.path('conf', 'api.conf')};",
            f"            fastcgi_pass unix:{place.sockets}/{i.program}.sock;",
            "        }",
            "        location = /edge {",
            f"            include {place.path('conf', 'api.conf')};",
            f"            fastcgi_pass unix:{place.sockets}/{i.program}.sock;",
            "        }",
            "        location = /presigned {",
            f"            include {place.path('conf', 'api.conf')};",
            f"            fastcgi_pass unix:{place.sockets}/{i.program}.sock;",
            "        }",
            "        location = /api/system/status {",
            f"            include {place.path('conf', 'api.conf')};",
            f"            fastcgi_pass unix:{place.sockets}/{i.program}.sock;",
            "        }",
            *(_doors(topology) if i.number == 1 else []),
            "        # The operator's page: files of ours, which may ask this address and nothing else.",
            "        location ~ ^/dashboard/(?<page>dashboard\\.(html|css|js))$ {",
            "            types { text/html html; text/css css; text/javascript js; }",
            "            add_header X-Content-Type-Options nosniff always;",
            "            add_header X-Frame-Options DENY always;",
            "            add_header Referrer-Policy no-referrer always;",
            "            add_header Content-Security-Policy \"default-src 'none'; script-src 'self'; "
            "style-src 'self'; connect-src 'self'; frame-ancestors 'none'\" always;",
            f"            alias {place.path('conf')}/$page;",
            "        }",
            "        location / {", "            return 404;", "        }", "    }", ""]
    return "\n".join(out)


CACHE_MODULE = "/usr/lib/nginx/modules/ngx_http_cache_purge_module.so"


def _cache_cells(place, topology):
    """The cache before S3, where the phase has one."""
    if not topology.has_cache:
        return {"MODULES": "", "CACHE_ZONE": "", "S3_CACHE": ""}
    zone = f"""\
    proxy_cache_path {place.path("run", "nginx", "cache")} levels=1:2 keys_zone=objects:8m
        max_size={CACHE_MAX} inactive=30d use_temp_path=off;
    map "$request_method $args" $cache_may {{
        "~^GET (.*&)?X-Amz-Signature=" answer;
        "~^(PUT|DELETE) "              change;
        default                        pass;
    }}
"""
    return {"MODULES": f"load_module {CACHE_MODULE};", "CACHE_ZONE": zone,
            "S3_CACHE": f"        include {place.path('conf', 's3_cache.conf')};"}


def fill(text, cells, name):
    """Put the values in; a name that is left over is our bug."""
    for key, value in cells.items():
        text = text.replace(f"@{key}@", str(value))
    left = re.findall(r"@[A-Z0-9_]+@", text)
    if left:
        raise Refusal(f"{name} names {left[0]}, which nothing fills in.")
    return text


def render(repo, place, topology, values, table, shift=None):
    """All files as {name in conf/: text}."""
    networks = [n.strip() for n in settings.text(values, table, "TRUSTED_PROXIES").split(",")
                if n.strip()]
    for network in networks:
        if not re.fullmatch(r"[0-9a-fA-F.:]+(/\d{1,3})?", network):
            raise Refusal(f'TRUSTED_PROXIES has "{network}": allowed are addresses and CIDR '
                          "blocks.")
    conf, edge = place.path("conf"), place.path("run", "edge")
    cells = {
        "WORKERS": WORKERS, "FILES": 2 * CONNECTIONS, "CONNECTIONS": CONNECTIONS,
        "RUN": place.path("run", "nginx"), "LOG": place.path("log"), "CONF": conf,
        "REALIP": "\n".join(f"    set_real_ip_from {n};" for n in networks),
        "TRUSTED": "\n".join(f"        {n} 1;" for n in networks),
        "UPSTREAMS": _upstream(place, topology, shift),
        "METRICS_SERVERS": _metrics_servers(place, topology), **_cache_cells(place, topology),
        "PROXY_PORT": topology.proxy_port, "S3_PUBLIC_PORT": topology.s3_public_port,
        "S3_PORT": topology.s3_port, "BODY_MAX": 4 * int(values["BODY_MAX_BYTES"]),
        "EDGE": edge,
    }
    timeout_s = int(values["REQUEST_TIMEOUT_MS"]) // 1000 + 5
    snippet = {"READ_TIMEOUT": f"{timeout_s}s", "TRIES": 1 + len(topology.instances),
               "KEEP": "fastcgi_keep_conn on;"}
    files = {}
    for source, name, names in (("nginx.conf", "nginx.conf", cells),
                                ("snippets/api.conf", "api.conf",
                                 snippet | {"NEXT": "error timeout"}),
                                ("snippets/api.conf", "api_once.conf", snippet | {"NEXT": "off"}),
                                ("snippets/s3.conf", "s3.conf", {}),
                                ("snippets/s3_cache.conf", "s3_cache.conf",
                                 {"CONF": conf, "BUCKET": re.escape(values["S3_BUCKET"])}),
                                ("snippets/s3_cached.conf", "s3_cached.conf", {"CONF": conf}),
                                ("snippets/security_headers.conf", "security_headers.conf", {})):
        with open(f"{repo}/proxy/{source}", encoding="utf-8") as f:
            files[name] = fill(f.read(), names, source)
    for name in DASHBOARD:
        with open(f"{repo}/web/dashboard/{name}", encoding="utf-8") as f:
            files[name] = f.read()
    # For a Prometheus with deploy/prometheus/prometheus.yml.
    files["targets.json"] = json.dumps([
        {"targets": [f"127.0.0.1:{i.metrics_port}"], "labels": {"instance_id": str(i.number)}}
        for i in topology.instances], indent=1) + "\n"
    files["targets_jobs.json"] = json.dumps([
        {"targets": [f"127.0.0.1:{port}"], "labels": {"program": program}}
        for program, port in topology.doors().items()], indent=1) + "\n"
    files["problems.conf"] = problems(repo, conf, edge)
    files["problems_s3.conf"] = problems(repo, conf, edge, is_s3=True)
    return files
