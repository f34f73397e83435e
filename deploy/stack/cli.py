"""The commands: up, restart, down, status, logs, clean-data, migrate, verify, rollback, db-status."""

import os
import sys

from . import objects, ports, procs, redis_cluster, restart, settings, stackup
from .place import Place, ensure_user
from .say import Progress, Refusal
from .supervisor import Supervisor
from .topology import SMTP

REPO = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))


def _open(words, for_up=False):
    """The stack that was named, with what it remembers (and, for up, what was given now)."""
    table = settings.read_table(REPO)
    found = settings.given(words, os.environ, table)
    name = found.get("STACK") or settings.OWN["STACK"]
    if not name.replace("-", "").replace("_", "").isalnum() or len(name) > 40:
        raise Refusal(f'STACK is "{name}": allowed are up to 40 letters, digits, "-" and "_".')
    place = Place(REPO, name, ensure_user())
    if not for_up and not place.exists:
        raise Refusal(f"There is no stack {name}; make up STACK={name} makes one.")
    if for_up:
        place.create()
    kept = settings.Settings.load(name, place.path("settings.json"))
    if for_up:
        kept.apply({k: v for k, v in found.items() if k != "STACK"}, REPO, table)
    return stackup.Stack(place, kept, table)


def up(words):
    progress = Progress()
    stack = _open(words, for_up=True)
    base, name = stack.topology.proxy_port, stack.place.name
    progress.line(f"Stack {name}: tier {stack.settings.tier}, phase {stack.settings.phase}, "
                  f"ports from {base}")
    stackup.up(stack, progress, os.path.abspath(os.environ.get("MB_BIN", f"{REPO}/build/bin")))
    more = "" if name == "default" else f" STACK={name}"
    progress.line(f"Ready in {progress.elapsed():.1f} s: http://127.0.0.1:{base}   "
                  f"(S3 :{base + 1}, metrics :{base + 2})")
    progress.line("Next, an account of your own:")
    progress.line(f"  curl -s http://127.0.0.1:{base}/api/auth/register \\\n"
                  "    -H 'Content-Type: application/json' \\\n"
                  "    -d '{\"email\":\"you@example.com\",\"name\":\"You\","
                  "\"password\":\"correct horse battery\"}'")
    progress.line(f"and see: make status{more} · make logs{more} · make down{more}")
    return 0


def restart_pools(words):
    progress = Progress()
    stack = _open(words)
    restart.restart(stack, progress,
                    os.path.abspath(os.environ.get("MB_BIN", f"{REPO}/build/bin")))
    return 0


def down(words):
    progress = Progress()
    stack = _open(words)
    kept = stackup.lock(stack.place)
    supervisor = Supervisor(stack.place)
    try:
        if stack.values is None:
            progress.line(f"Stack {stack.place.name} was never started.")
            return 0
        with progress.step(f"Stopping stack {stack.place.name}") as step:
            if supervisor.connect():
                apps = [p.name for p in stack.programs() if p.stage > stackup.STORES]
                known = supervisor.all()
                # The proxy first: it ends the kept connections that API threads wait on.
                supervisor.stop_softly([n for n in ["nginx"] if n in known])
                supervisor.stop_softly([n for n in apps if n in known])
                supervisor.stop_softly(list(known))
            ended = stackup.end_leftovers(stack)
            stack.place.drop_shared_memory()
            step.note("stopped; the data stay" if ended else "was not running")
    finally:
        kept.close()
    return 0


def clean_data(words):
    if down(words) != 0:
        return 1
    stack = _open(words)
    stack.place.remove()
    Progress().line(f"Stack {stack.place.name}: data dropped.")
    return 0


def _age(seconds):
    seconds = int(seconds)
    if seconds < 120:
        return f"{seconds}s"
    return f"{seconds // 60}m" if seconds < 7200 else f"{seconds // 3600}h"


def _since_start(pid):
    state = procs.stat(pid)
    if state is None:
        return ""
    with open("/proc/uptime", encoding="ascii") as f:
        uptime = float(f.read().split()[0])
    return _age(uptime - state[2] / os.sysconf("SC_CLK_TCK"))


def _ready(stack, name, is_up):
    """(is it ready, a word about it) of one supervised program."""
    if not is_up:
        return False, "down"
    d = next((d for d in stack.topology.databases if d.program == name), None)
    if d is not None:
        good = stackup.database.ready(stack.place, d)
        return good, f"accepts connections on :{d.port}" if good else "does not accept connections"
    copy = next((c for c in stack.topology.replicas if c.program == name), None)
    if copy is not None:
        return stackup.database.follows(stack.place, copy, stack.secrets)
    r = next((r for r in stack.topology.redis if r.program == name), None)
    if r is not None and r.bus_port:
        return redis_cluster.word_of(r, stack.secrets["redis"])
    if r is not None:
        good = ports.redis_answers(r.port, stack.secrets["redis"])
        return good, f"answers PING on :{r.port}" if good else "does not answer PING"
    if name == "s3":
        good = objects.healthy(stack.topology.s3_port)
        return good, f"healthy on :{stack.topology.s3_port}" if good else "not healthy"
    if name == "nginx":
        status, _ = stackup.status_document(stack.topology.proxy_port)
        return status != 0, f"answers on :{stack.topology.proxy_port}" if status else "no answer"
    i = next((i for i in stack.topology.instances if i.program == name), None)
    if i is not None:
        status, document = stackup.status_document(i.metrics_port)
        checks = (document or {}).get("checks", {})
        bad = [k for k, c in checks.items() if isinstance(c, dict) and c.get("status") != "ok"]
        if status == 200:
            return True, "status 200"
        return False, f"status {status}" + (f": {', '.join(bad)}" if bad else "")
    return True, "running"


def _members(stack, found, program, pid):
    """Further processes that a person wants to see under a program: the API's workers."""
    if program not in {i.program for i in stack.topology.instances}:
        return []
    return sorted(p.pid for p in found if p.ppid == pid)


def status(words):
    stack = _open(words)
    if stack.values is None:
        raise Refusal(f"Stack {stack.place.name} was never started; make up starts it.")
    supervisor = Supervisor(stack.place)
    runs = supervisor.connect()
    found = stack.processes()
    print(f"Stack {stack.place.name}: tier {stack.settings.tier}, phase {stack.settings.phase}, "
          f"http://127.0.0.1:{stack.topology.proxy_port}")
    print(f"{'PROCESS':<16} {'PID':>8} {'UP':>6}  {'READY':<6} DETAIL")
    known = supervisor.all() if runs else {}
    well = runs
    for program in stack.programs():
        info = known.get(program.name)
        pid = info["pid"] if info else 0
        is_up = bool(pid) and procs.alive(pid)
        good, word = _ready(stack, program.name, is_up)
        well = well and good
        print(f"{program.name:<16} {pid or '-':>8} {_since_start(pid) if is_up else '-':>6}  "
              f"{'yes' if good else 'NO':<6} {word}")
        for number, member in enumerate(_members(stack, found, program.name, pid), 1):
            print(f"{'  process ' + str(number):<16} {member:>8} {_since_start(member):>6}  "
                  f"{'yes' if good else 'NO':<6}")
    print(f"{'supervisor':<16} "
          f"{supervisor.rpc.getPID() if runs else '-':>8} {'':>6}  {'yes' if runs else 'NO':<6} "
          f"{'' if runs else 'not running: make up repairs it' if found else 'stack is down'}")
    return 0 if well else 1


def logs(words):
    stack = _open(words)
    folder = stack.place.path("log")
    files = sorted(os.path.join(folder, n) for n in os.listdir(folder)
                   if n.endswith(".log") and not n.startswith("supervisord-start"))
    if not files:
        raise Refusal("There are no logs yet; make up writes some.")
    os.execv("/usr/bin/tail", ["tail", "-n", "10", "-F"] + files)


def _migrations(words):
    stack = _open(words)
    if stack.values is None or not Supervisor(stack.place).connect():
        raise Refusal(f"Stack {stack.place.name} is not up; make up STACK={stack.place.name} "
                      "starts it.")
    for d in stack.topology.databases:
        stackup.database.await_ready(stack.place, d, 10)
    return stack.migrations(lambda text: print(text, flush=True))


def db_migrate(words):
    return 0 if _migrations(words).deploy() else 1


def db_verify(words):
    return 0 if _migrations(words).verify() else 1


def db_rollback(words):
    return 0 if _migrations(words).rollback() else 1


def db_status(words):
    lines, well = _migrations(words).status_lines()
    print("\n".join(lines))
    return 0 if well else 1


def env(words):
    """What the integration tests need to know, as shell assignments."""
    stack = _open(words)
    base = stack.topology.proxy_port
    print(f"MB_STACK_DIR={stack.place.link}\nMB_URL=http://127.0.0.1:{base}\n"
          f"MB_S3_URL=http://127.0.0.1:{stack.topology.s3_public_port}\n"
          f"MB_METRICS_URL=http://127.0.0.1:{stack.topology.metrics_port}\n"
          f"MB_SMTP_PORT={base + SMTP}")
    return 0


COMMANDS = {"up": up, "restart": restart_pools, "down": down, "status": status, "logs": logs, "clean-data": clean_data,
            "db-migrate": db_migrate, "db-verify": db_verify, "db-rollback": db_rollback,
            "db-status": db_status, "env": env}


def main(words):
    if not words or words[0] not in COMMANDS:
        print(f"usage: deploy/stack.py {'|'.join(COMMANDS)} [NAME=value …]", file=sys.stderr)
        return 2
    try:
        return COMMANDS[words[0]](words[1:])
    except Refusal as refusal:
        sys.stdout.flush()
        print(f"\n{refusal}" if sys.stdout.isatty() else str(refusal), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted; make up again goes on from here.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 1


