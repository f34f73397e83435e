"""`up`: from nothing, from half of something, or from a running stack, to a stack that is ready."""

import concurrent.futures
import errno
import fcntl
import http.client
import json
import os
import shutil
import subprocess
import time

from . import database, edge, migrations, objects, ports, procs, programs, redis_cluster, \
    render, render_nginx, settings, topology
from .programs import REPLICAS, STORES
from .say import Refusal
from .supervisor import Supervisor

DISK_NEEDED = 1024 * 1024 * 1024
READY_WITHIN_S = 60
AT_ONCE = 2  # servers that are made or filled at the same time
VERSITYGW = "~/.cache/maxbooster/versitygw-v1.8.0/versitygw"
BUILT = ("maxbooster-api", "maxbooster-worker", "maxbooster-scheduler", "maxbooster-media",
         "maxboosterctl")
NEEDED = {
    programs.POSTGRES_BIN + "/postgres": "postgresql-15", "/usr/bin/redis-server": "redis-server",
    "/usr/sbin/nginx": "nginx", render_nginx.CACHE_MODULE: "libnginx-mod-http-cache-purge",
    "/usr/bin/multiwatch": "multiwatch",
    "/usr/bin/spawn-fcgi": "spawn-fcgi", "/usr/bin/psql": "postgresql-client-15",
    "/usr/bin/supervisord": "supervisor",
}


class Stack:
    """A stack with its values worked out; what all commands share."""

    def __init__(self, place, kept, table):
        self.place, self.settings, self.table = place, kept, table
        values = kept.merged(place.repo, table, topology.values_of(kept.phase))
        self.given = values
        self.lay_out()
        self.secrets = _read_secrets(place)
        self.values = None
        if self.secrets:
            self.work_out()

    def lay_out(self):
        kept = self.settings
        shards = settings.number(self.given, self.table, "SHARD_COUNT")
        self.topology = topology.build(kept.phase, kept.port_base, shards, kept.db_servers,
                                       kept.spares)

    def work_out(self):
        self.values = render.complete(self.given, self.table, self.place, self.topology,
                                      self.secrets)

    def programs(self):
        have = {n for n in BUILT if os.path.exists(self.place.path("bin", n))}
        return programs.all_of(self.place, self.topology, self.values, self.secrets, have)

    def folders(self):
        return {p.folder: p.name for p in self.programs() if p.folder}

    def processes(self):
        return procs.of_stack(self.place.root, self.folders())

    def redis_cluster(self):
        return redis_cluster.Cluster(self.topology.redis, self.secrets["redis"])

    def migrations(self, say):
        places = migrations.places_of_stack(self.place, self.topology, self.secrets)
        return migrations.Migrations(f"{self.place.repo}/sql", places, say)


def _read_secrets(place):
    try:
        with open(place.path("conf", "secrets.json"), encoding="utf-8") as f:
            return settings.make_secrets(json.load(f))
    except FileNotFoundError:
        return None


def lock(place):
    """One command at a time changes a stack; the lock ends with the process."""
    f = open(place.path("lock"), "w", encoding="utf-8")
    try:
        fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise Refusal(f"Another make works on stack {place.name}; wait until it is done.") from None
    return f


def check_room(place):
    missing = sorted({package for path, package in NEEDED.items() if not os.path.exists(path)})
    if missing:
        raise Refusal(f"Not installed: {' '.join(missing)}; run deploy/bootstrap as root, or "
                      f"apt-get install {' '.join(missing)}.")
    free = shutil.disk_usage(place.root).free
    if free < DISK_NEEDED:
        raise Refusal(f"Only {free >> 20} MiB are free at {place.root}; a stack needs "
                      f"{DISK_NEEDED >> 20} MiB: make room there.")
    for letter in "'\"\\ %@${};\t\n":
        if letter in place.root:
            raise Refusal(f"The path {place.root} has the character {letter!r}, which the servers' "
                          "files cannot name; clone to another folder.")


def check_ports(stack):
    taken = [(port, name) for port, name in stack.topology.listening() if not ports.is_free(port)]
    if taken:
        port, name = taken[0]
        raise Refusal(f"Port {port} (for {name}) is in use by {ports.holder(port)}: stop that, or "
                      f"choose other ports with make up PORT_BASE=n (say "
                      f"{stack.settings.port_base + 1000}).")


def end_leftovers(stack):
    """Processes of this stack that no supervisor looks after any more. Returns how many."""
    def find():
        return stack.processes()

    # Those who stop well with TERM first: an API finishes its requests, PostgreSQL (INT) its
    # writes.
    found = find()
    if not found:
        return 0
    watchers = {p.pid for p in found if p.program == "supervisor"}
    procs.end(lambda: [p for p in find() if p.pid in watchers], [("SIGKILL", 1)])
    databases = {d.program for d in stack.topology.databases + stack.topology.replicas}
    procs.end(lambda: [p for p in find() if p.program not in databases],
              [("SIGTERM", 10), ("SIGKILL", 3)])
    left = procs.end(find, [("SIGINT", 20), ("SIGQUIT", 3), ("SIGKILL", 3)])
    if left:
        raise Refusal(f"Processes {left} of stack {stack.place.name} do not end; look at them.")
    return len(found)


def install(stack, bin_folder):
    """Copy programs and helpers into the stack. Returns the names that differ."""
    place, changed = stack.place, []
    here = os.path.dirname(os.path.abspath(__file__))
    for name in ("edge.py", "launch.py", "procs.py", "replica.py", "supervise.py"):
        place.copy(f"{here}/{name}", f"lib/{name}")
    versitygw = os.path.expanduser(os.environ.get("MB_VERSITYGW", VERSITYGW))
    if not os.path.exists(versitygw):
        raise Refusal(f"{versitygw} is missing; deploy/bootstrap builds it.")
    sources = [(versitygw, "versitygw")]
    sources += [(f"{bin_folder}/{n}", n) for n in BUILT if os.path.exists(f"{bin_folder}/{n}")]
    for source, name in sources:
        if place.copy(source, f"bin/{name}"):
            changed.append(name)
    return changed


def write_files(stack):
    """Render everything. Returns the names of files that differ."""
    place, topo = stack.place, stack.topology
    changed = []

    def write(name, text, secret=False):
        if place.write(f"conf/{name}", text, secret):
            changed.append(name)

    write("secrets.json", json.dumps(stack.secrets, indent=1) + "\n", secret=True)
    if place.write("stack.env", render.env_file(stack.values), secret=True):
        changed.append("stack.env")
    # For maxboosterctl shards …; no program is told. Only user and password of it are used.
    place.write("admin.env", f"DATABASE_ADMIN_URL=postgresql://{render.ADMIN_ROLE}:"
                f"{stack.secrets['postgres_admin']}@/postgres\n", secret=True)
    write("pg_hba.conf", render.PG_HBA)
    for d in topo.databases:
        write(f"{d.program}.conf", render.postgres_conf(place, topo, d, stack.values))
    for r in topo.replicas:
        write(f"{r.program}.conf",
              render.replica_conf(place, topo, r, stack.values, stack.secrets), secret=True)
        write(f"{r.program}.json", render.replica_file(place, r, stack.secrets), secret=True)
    for r in topo.redis:
        write(f"{r.program}.conf", render.redis_conf(place, r, stack.secrets), secret=True)
        place.make_folder(place.path("data", r.program))
    place.make_folder(place.path("run", "nginx"))
    write_edge(stack)
    objects.make_folders(place)
    files = render_nginx.render(place.repo, place, topo, stack.values, stack.table)
    for name, text in files.items():
        write(name, text)
    write("programs.json", render.programs_file(place, stack.programs()), secret=True)
    return changed


def write_edge(stack):
    """The proxy's limits for its first start; from then on they are edge.py's."""
    place, values = stack.place, stack.values
    place.make_folder(place.path("run", "edge"))
    files = edge.texts(int(values["RATE_LIMIT_MAX"]), int(values["RATE_LIMIT_WINDOW_MS"]))
    for name, text in files.items():
        if not os.path.exists(place.path("run", "edge", name)):
            place.write(f"run/edge/{name}", text)


def supervise(stack, stages):
    """Let the supervisor run the programs of these stages (and no others)."""
    listed = [p for p in stack.programs() if p.stage in stages]
    stack.place.write("conf/supervisord.conf", render.supervisor_conf(stack.place, listed))


def await_stores(stack):
    for d in stack.topology.databases:
        database.await_ready(stack.place, d)
    deadline = time.monotonic() + 30
    for r in stack.topology.redis:
        while not ports.redis_answers(r.port, stack.secrets["redis"]):
            if time.monotonic() > deadline:
                raise Refusal(f"Redis does not start; see log/{r.program}.log of the stack.")
            time.sleep(0.05)
    objects.await_ready(stack.topology.s3_port)


def await_replicas(stack, progress):
    """Each has its copy and follows; a first copy takes a moment."""
    with progress.step("Replicas") as step:
        deadline = time.monotonic() + READY_WITHIN_S
        for r in stack.topology.replicas:
            while not database.follows(stack.place, r, stack.secrets)[0]:
                if time.monotonic() > deadline:
                    raise Refusal(f"{r.program} does not follow {r.primary.program}; see "
                                  f"log/{r.program}.log of the stack.")
                time.sleep(0.1)
        step.note(f"{len(stack.topology.replicas)} follow")


def prepare_data(stack, progress):
    """Redis Cluster, databases, migrations, bucket."""
    words = []
    changes = stack.migrations(words.append)
    topo, shards = stack.topology, stack.topology.shards()

    if topo.is_redis_cluster:
        with progress.step("Redis Cluster") as step:
            new = stack.redis_cluster().form()
            step.note(f"{len(topo.redis)} nodes, " + ("formed" if new else "whole"))
    with progress.step("Databases and migrations") as step:
        def migrate(d, name):
            changes.deploy_on(migrations.dsn_of_stack(stack.place, d, stack.secrets, name))
        new = sum(database.make_databases(stack.place, d, stack.secrets, migrate)
                  for d in topo.databases)
        stack.settings.data_shards, stack.settings.data_phase = len(shards), stack.settings.phase
        stack.settings.data_servers = len(topo.databases)
        save(stack)
        late = changes.is_behind()
        if late and not changes.deploy():
            progress.line("\n" + "\n".join(words))
            raise Refusal("A migration failed; the lines above have the cause.")
        step.note(f"{len(shards)} shards, {new} new, {len(late)} migrated" if new or late
                  else "up to date")
    local = f":{stack.topology.s3_public_port}"
    if stack.values["S3_ENDPOINT"].endswith(local):
        with progress.step("Bucket") as step:
            new = objects.make_bucket(stack.topology.s3_port, stack.values)
            step.note("made" if new else "there")


def status_document(port, seconds=3):
    """(HTTP status, document) of /api/system/status; (0, None) where nothing answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)
    try:
        connection.request("GET", "/api/system/status")
        reply = connection.getresponse()
        body = reply.read()
        try:
            return reply.status, json.loads(body)
        except ValueError:
            return reply.status, None
    except (OSError, http.client.HTTPException):
        return 0, None
    finally:
        connection.close()


def await_ready(stack, progress):
    with progress.step("Waiting until it is ready") as step:
        if not os.path.exists(stack.place.path("bin", "maxbooster-api")):
            step.note("no maxbooster-api is built: only the servers run")
            return
        deadline = time.monotonic() + READY_WITHIN_S
        while True:
            status, document = status_document(stack.topology.proxy_port)
            if status == 200:
                step.note("ready")
                return
            if time.monotonic() > deadline:
                break
            time.sleep(0.1)
        path = stack.place.path("log", f"{stack.topology.instances[0].program}.log")
        progress.line("")
        for line in _tail(path, 5):
            progress.line(f"    {line}")
        checks = json.dumps((document or {}).get("checks")) if document else "no answer"
        raise Refusal(f"The API is not ready after {READY_WITHIN_S} s (status {status}: {checks}); "
                      f"the lines above are the last of {path}.")


def _tail(path, lines):
    try:
        with open(path, encoding="utf-8", errors="replace") as f:
            return [line.rstrip()[:300] for line in f.readlines()[-lines:]]
    except OSError:
        return []


def save(stack):
    stack.place.write("settings.json", stack.settings.text())


def stores_differ(stack):
    """Has something changed that PostgreSQL, Redis or S3 read at their start?"""
    try:
        with open(stack.place.path("conf", "supervisord.conf"), encoding="utf-8") as f:
            running = f.read()
    except FileNotFoundError:
        return True
    return any(render.digest_line(stack.place, p) not in running
               for p in stack.programs() if p.stage in (STORES, REPLICAS))


def check_nginx(stack):
    place = stack.place
    done = subprocess.run(
        ["/usr/sbin/nginx", "-t", "-q", "-p", place.path("run", "nginx"), "-e", "stderr",
         "-c", place.path("conf", "nginx.conf")],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, **place.as_user())
    if done.returncode != 0:
        raise Refusal(f"nginx refuses its configuration: {done.stderr.strip()}")


def up(stack, progress, bin_folder):
    kept_lock = lock(stack.place)
    try:
        _up(stack, progress, bin_folder)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Refusal(f"The disk at {stack.place.root} is full; make room, then make up again."
                          ) from None
        raise
    finally:
        kept_lock.close()


def _up(stack, progress, bin_folder):
    place = stack.place
    check_room(place)
    stack.settings.guard_data(len(stack.topology.shards()), len(stack.topology.databases))
    if stack.secrets is None:
        stack.secrets = settings.make_secrets({})
        stack.work_out()
    supervisor = Supervisor(place)
    is_running = supervisor.connect()
    with progress.step("Programs") as step:
        changed = install(stack, bin_folder)
        step.note(", ".join(changed) if changed else "unchanged")
    with progress.step("Configuration") as step:
        changed = write_files(stack)
        check_nginx(stack)
        step.note(f"{len(changed)} files written" if changed else "unchanged")
    if not is_running or stores_differ(stack):
        with progress.step("Ports and leftovers") as step:
            ended = end_leftovers(stack)
            place.drop_shared_memory()
            check_ports(stack)
            step.note(f"{ended} processes ended" if ended else "free")
        is_running = False
    save(stack)
    missing = [d for d in stack.topology.databases
               if not os.path.exists(place.path("data", d.program))]
    if missing:
        with progress.step("PostgreSQL servers") as step:
            with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
                list(pool.map(lambda d: database.init_cluster(place, d, stack.secrets), missing))
            step.note(f"{len(missing)} made")
    rotate_logs(place)
    _start(stack, supervisor, is_running, changed, progress)
    await_ready(stack, progress)


def _start(stack, supervisor, is_running, changed, progress):
    """Stores, then their data, then the rest."""
    place = stack.place
    if not is_running:
        supervise(stack, {STORES})
        with progress.step("PostgreSQL, Redis, S3") as step:
            supervisor.start()
            await_stores(stack)
            step.note("up")
    else:
        supervisor.start_stopped()
        await_stores(stack)
    prepare_data(stack, progress)
    if stack.topology.replicas and not is_running:
        supervise(stack, {STORES, REPLICAS})
        supervisor.update()
        await_replicas(stack, progress)
    supervise(stack, {p.stage for p in stack.programs()})
    with progress.step("API, worker, scheduler, proxy") as step:
        removed, differs, added = supervisor.update()
        started = supervisor.start_stopped()
        if "nginx" not in added + differs + started and _is_of_nginx(changed):
            supervisor.signal("nginx", "HUP")
            differs = differs + ["nginx"]
        words = [f"{label} {', '.join(names)}" for label, names in
                 (("started", added + started), ("restarted", differs), ("stopped", removed))
                 if names]
        step.note("; ".join(words) if words else "unchanged")
    if place.user is not None and not is_running:
        progress.line(f"  (servers run as user {place.user.pw_name})")


def _is_of_nginx(changed):
    return bool({"nginx.conf", "api.conf", "api_once.conf", "problems.conf", "problems_s3.conf",
                 "s3.conf", "s3_cache.conf", "s3_cached.conf", "security_headers.conf"}
                & set(changed))


def rotate_logs(place, limit=programs.LOG_LIMIT):
    """A log past its bound is copied to name.1 and emptied; writers append, so they go on."""
    folder = place.path("log")
    for name in sorted(os.listdir(folder)):
        if not name.endswith(".log"):
            continue
        path = os.path.join(folder, name)
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
        with os.fdopen(fd, "r+b") as f:
            if os.fstat(f.fileno()).st_size <= limit:
                continue
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
            with os.fdopen(os.open(path + ".1", flags, 0o640), "wb") as old:
                shutil.copyfileobj(f, old)
            f.truncate(0)
