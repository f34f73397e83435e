"""`restart`: every instance gets a new pool of API processes, and no request notices.

One instance after the other: a new pool on a socket of its own; when that says that it is ready, the
proxy is reloaded to give it a tenth of what the instance gets, then half, then all, so that it opens
its connections while another serves; when the proxy's old workers have finished, nobody knows the old
pool any more, and it ends. A pool that does not get ready never sees a request, and one that does not
stay so sees no more than its share: the old one serves on. Old and
new share the instance's memory file, so that its metrics go on and its leases stay one sum.

Workers and schedulers, whose work is taken up by others or later, are restarted at the end where their
programs have changed. What PostgreSQL, Redis and S3 would notice is left to `up`.
"""

import os
import re
import time

from . import fastcgi, procs, render, render_nginx, stackup
from .say import Refusal
from .supervisor import Supervisor

READY_WITHIN_S = 15
PERCENTS, SHARE_S = (10, 50, 100), 1.5  # of the instance's requests, and how long before the next
# nginx's worker_shutdown_timeout (proxy/nginx.conf), and a little.
OLD_PROXY_WITHIN_S = 65


def restart(stack, progress, bin_folder):
    kept = stackup.lock(stack.place)
    try:
        supervisor = Supervisor(stack.place)
        if stack.values is None or not supervisor.connect():
            raise Refusal(f"Stack {stack.place.name} is not up; make up STACK={stack.place.name} "
                          "starts it.")
        before = _keep_programs(stack.place)
        try:
            _restart(stack, supervisor, progress, bin_folder)
        except (Refusal, OSError):
            _keep_programs(stack.place, take_back=True)
            raise
        finally:
            for path in before:
                if os.path.exists(path):
                    os.unlink(path)
    finally:
        kept.close()


def _keep_programs(place, take_back=False):
    """Keep the present programs beside the ones to come, or take them back: what serves on is also what
    a crash starts again. The paths of what is kept."""
    folder, kept = place.path("bin"), []
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        if take_back and name.endswith(".before"):
            os.replace(path, path.removesuffix(".before"))
        elif not take_back and not name.endswith((".before", ".new")):
            kept.append(path + ".before")
            if os.path.exists(kept[-1]):
                os.unlink(kept[-1])
            os.link(path, kept[-1])
    return kept


def _restart(stack, supervisor, progress, bin_folder):
    with progress.step("Programs and configuration") as step:
        changed = stackup.install(stack, bin_folder) + stackup.write_files(stack)
        if stackup.stores_differ(stack):
            raise Refusal("PostgreSQL, Redis or S3 would be started anew by what has changed; make up "
                          "does that.")
        stackup.check_nginx(stack)
        step.note(f"{len(changed)} changed" if changed else "unchanged")
    for instance in stack.topology.instances:
        with progress.step(f"Instance {instance.number}") as step:
            began = time.monotonic()
            new = _replace(stack, supervisor, instance.number)
            step.note(f"{new} serves, {instance.program} has ended, "
                      f"{time.monotonic() - began:.1f} s")
    stackup.supervise(stack, {p.stage for p in stack.programs()})
    with progress.step("The rest") as step:
        _, differs, _ = supervisor.update()
        step.note("restarted " + ", ".join(differs) if differs else "unchanged")


def _replace(stack, supervisor, number):
    """Let the other pool of an instance serve; its name."""
    old = _pool(stack, number)
    _turn(stack, number)
    new = _pool(stack, number)
    _tell_programs(stack, [old])
    _supervised(stack, supervisor, add=new)
    try:
        for percent in PERCENTS:
            _await_ready(stack, new.name)
            shift = render_nginx.Shift(number, old.name, percent)
            before = _point_proxy(stack, supervisor, shift)
            if percent < PERCENTS[-1]:
                time.sleep(SHARE_S)
        _await_gone(before)
    except (Refusal, OSError):
        _turn(stack, number)
        stackup.write_files(stack)
        supervisor.signal("nginx", "HUP")
        _supervised(stack, supervisor, drop=new)
        raise
    stackup.save(stack)
    _supervised(stack, supervisor, drop=old)
    _tell_programs(stack)
    for path in old.unlink:
        if os.path.exists(path):
            os.unlink(path)
    return new.name


def _pool(stack, number):
    name = next(i for i in stack.topology.instances if i.number == number).program
    return next(p for p in stack.programs() if p.name == name)


def _turn(stack, number):
    """The other pool's turn: in the stack's layout, not yet in what it remembers."""
    spares = set(stack.settings.spares) ^ {number}
    stack.settings.spares = sorted(spares)
    stack.lay_out()


def _tell_programs(stack, more=()):
    """What launch.py reads: all programs, and the pools that are leaving."""
    listed = stack.programs() + list(more)
    stack.place.write("conf/programs.json", render.programs_file(stack.place, listed), secret=True)


def _supervised(stack, supervisor, add=None, drop=None):
    """Change the supervisor's file by one program, and nothing else of it: no other is restarted."""
    with open(stack.place.path("conf", "supervisord.conf"), encoding="utf-8") as f:
        text = f.read()
    for program in filter(None, (add, drop)):
        text = re.sub(rf"^\[program:{program.name}\]\n(?:(?!\[).*\n)*", "", text, flags=re.M)
    if add is not None:
        text += render.supervisor_section(stack.place, add)
    stack.place.write("conf/supervisord.conf", text)
    supervisor.update()


def _await_ready(stack, name):
    path = f"{stack.place.sockets}/{name}.sock"
    deadline = time.monotonic() + READY_WITHIN_S
    while fastcgi.status(path, "/api/system/status") != 200:
        if time.monotonic() > deadline:
            raise Refusal(f"The new pool {name} is not ready within {READY_WITHIN_S} s (see "
                          f"log/{name}.log of the stack); the old one serves on.")
        time.sleep(0.05)


def _proxy_workers(stack, supervisor):
    master = supervisor.info("nginx")["pid"]
    return {p.pid for p in stack.processes() if p.program == "nginx" and p.ppid == master}


def _point_proxy(stack, supervisor, shift):
    """Reload the proxy so that it asks the pools of the present layout, and of a shift."""
    files = render_nginx.render(stack.place.repo, stack.place, stack.topology, stack.values,
                                stack.table, shift)
    for name, text in files.items():
        stack.place.write(f"conf/{name}", text)
    stackup.check_nginx(stack)
    before = _proxy_workers(stack, supervisor)
    supervisor.signal("nginx", "HUP")
    deadline = time.monotonic() + READY_WITHIN_S
    while not _proxy_workers(stack, supervisor) - before:
        if time.monotonic() > deadline:
            raise Refusal("The proxy does not take its new configuration (see log/nginx-error.log of "
                          "the stack); the old pool serves on.")
        time.sleep(0.05)
    return before


def _await_gone(pids):
    """The proxy's old workers have finished what they serve."""
    deadline = time.monotonic() + OLD_PROXY_WITHIN_S
    while any(procs.alive(pid) for pid in pids):
        if time.monotonic() > deadline:
            raise Refusal("The proxy's old workers do not end; the old pool serves on.")
        time.sleep(0.05)
