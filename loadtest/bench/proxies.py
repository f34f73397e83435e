"""Further proxies of the same kind: the stack's nginx.conf with another upstream and other ports.

Nothing is configured here a second time: each change below must find its place in the rendered
file, or the run stops.
"""

import os
import re

from world import Refusal

FIRST, PORTS_EACH = 40, 4  # offsets to PORT_BASE: 15 slots; API, S3, two for metrics

HAND_BACK = ("        keepalive_timeout 2s;\n        keepalive_time 1s;\n"
             "        keepalive_requests 500;\n")
NO_HAND_BACK = ("        keepalive_timeout 60s;\n        keepalive_time 1h;\n"
                "        keepalive_requests 1000000;\n")
# As an operator would keep connections to a server that does not tie a thread to each.
PEER_KEEP = "        keepalive 32;\n        keepalive_timeout 4s;\n"

PEER = """proxy_http_version 1.1;
proxy_set_header Host $http_host;
proxy_set_header Connection "";
proxy_set_header X-Request-Id $rid;
proxy_set_header X-Forwarded-For $remote_addr;
proxy_set_header X-Forwarded-Proto $client_scheme;
proxy_buffer_size 16k;
proxy_buffers 16 16k;
proxy_max_temp_file_size 0;
proxy_connect_timeout 2s;
proxy_send_timeout 10s;
proxy_read_timeout 15s;
proxy_hide_header X-Request-Id;
proxy_hide_header X-Powered-By;
"""


def _edit(pattern, new, text, flags=0):
    text, n = re.subn(pattern, lambda _: new, text, flags=flags)
    if n == 0:
        raise Refusal(f"The stack's nginx.conf has nothing like {pattern!r}: the benchmarks derive "
                      "their proxies from it; change loadtest/bench/proxies.py with it.")
    return text


def kept_by_stack(world):
    """What the stack's own nginx keeps per worker, as a text; "off" where it keeps none."""
    with open(world.place.path("conf", "nginx.conf"), encoding="utf-8") as f:
        block = re.search(r"upstream api \{.*?\n    \}", f.read(), re.S)
    kept = re.search(r"^\s*keepalive (\d+);", block.group(), re.M) if block else None
    return kept.group(1) if kept else "off"


def _upstream(servers, keep):
    lines = "".join(f"        server {s} max_fails=0;\n" for s in servers * 2)
    return f"upstream api {{\n{lines}{keep}    }}"


class Proxy:
    """One derived nginx; start() and stop() may alternate."""

    def __init__(self, world, slot, name):
        self.world, self.name = world, name
        self.port = world.base + FIRST + PORTS_EACH * slot
        self.folder = world.place.path("tmp", "bench", name)
        self.child = None
        world.place.make_folder(self.folder)

    @property
    def second_port(self):
        """The inner address: a path to the same API that keeps no connections."""
        return self.port + 2

    def _config(self):
        w = self.world
        with open(w.place.path("conf", "nginx.conf"), encoding="utf-8") as f:
            text = f.read()
        text = _edit(re.escape(w.place.path("run", "nginx")), self.folder, text)
        text = _edit(re.escape(w.place.path("log", "nginx-error.log")),
                     f"{self.folder}/error.log", text)
        for offset, ours in ((0, 0), (1, 1), (2, 2), (21, 3)):
            text = _edit(rf"127\.0\.0\.1:{w.base + offset}\b(?! max_fails)",
                         f"127.0.0.1:{self.port + ours}", text)
        return text

    def _write(self, name, text):
        path = os.path.join(self.folder, name)
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        os.chmod(path, 0o644)
        return path

    def fastcgi(self, sockets, keep, is_kept=True):
        """FastCGI to unix sockets."""
        text = _edit(r"upstream api \{.*?\n    \}",
                     _upstream([f"unix:{s}" for s in sockets], keep), self._config(), re.S)
        if not is_kept:
            conf = self.world.place.path("conf", "api.conf")
            with open(conf, encoding="utf-8") as f:
                snippet = _edit(r"fastcgi_keep_conn on;", "fastcgi_keep_conn off;", f.read())
            text = _edit(re.escape(conf), self._write("api.conf", snippet), text)
        self._write("nginx.conf", text)
        return self

    def http(self, port):
        """HTTP to a peer."""
        text = _edit(r"upstream api \{.*?\n    \}", _upstream([f"127.0.0.1:{port}"], PEER_KEEP),
                     self._config(), re.S)
        snippet = self._write("peer.conf", PEER)
        # The second place is that of PUT and DELETE, whose path nginx.conf has rewritten.
        for name, target in (("api.conf", "http://api"), ("api_once.conf", "http://api$request_uri")):
            conf = self.world.place.path("conf", name)
            text = _edit(rf"fastcgi_pass api;\s*include {re.escape(conf)};",
                         f"proxy_pass {target};\n            include {snippet};", text)
        self._write("nginx.conf", text)
        return self

    def static(self, body):
        """A file instead of the API."""
        self._write("static.json", body)
        text = _edit(r"location = /api \{",
                     f"location = /static.json {{\n            root {self.folder};\n        }}\n"
                     "        location = /api {", self._config())
        self._write("nginx.conf", text)
        return self

    def start(self):
        self.child = self.world.start(
            ["/usr/sbin/nginx", "-p", self.folder, "-c", f"{self.folder}/nginx.conf",
             "-e", f"{self.folder}/error.log", "-g", "daemon off;"],
            f"nginx-{self.name}.log", self.port, as_stack_user=True)
        return self

    def stop(self):
        self.world.end(self.child)
        self.child = None
