"""Which processes belong to a stack. Copied into the stack, where launch.py uses it too.

A process is never found by its name alone. It belongs to the stack at `root` if its environment
carries our mark, or if it runs a program from root/bin, or if it is a server (whose title hides its
environment) that works in a folder of ours. So a shell that happens to stand in such a folder is
left alone.
"""

import os
import signal
import time

MARK = b"MAXBOOSTER_STACK="
PROGRAM = b"MAXBOOSTER_PROGRAM="
# These overwrite their environment with their title.
TITLED = {"postgres", "nginx", "redis-server", "redis-check-rdb"}


class Proc:
    """One process: pid, parent, the program of the stack it belongs to ("" if not known)."""

    def __init__(self, pid, ppid, program, text):
        self.pid, self.ppid, self.program, self.text = pid, ppid, program, text


def _read(path):
    try:
        with open(path, "rb") as f:
            return f.read()
    except OSError:
        return b""


def _link(path):
    try:
        return os.readlink(path).removesuffix(" (deleted)")
    except OSError:
        return ""


def stat(pid):
    """(state, ppid, start in ticks since boot), or None where it is gone."""
    text = _read(f"/proc/{pid}/stat")
    if not text:
        return None
    fields = text.rpartition(b")")[2].split()
    return fields[0].decode(), int(fields[1]), int(fields[19])


def _program(pid, root, folders):
    environ = _read(f"/proc/{pid}/environ").split(b"\0")
    if MARK + root.encode() in environ:
        names = [e[len(PROGRAM):].decode() for e in environ if e.startswith(PROGRAM)]
        return names[0] if names else ""
    argv0 = _read(f"/proc/{pid}/cmdline").split(b"\0")[0].decode("utf-8", "replace")
    if argv0.startswith(root + "/bin/"):
        return os.path.basename(argv0)
    if os.path.basename(_link(f"/proc/{pid}/exe")) in TITLED:
        cwd = _link(f"/proc/{pid}/cwd")
        if cwd in folders:
            return folders[cwd]
        if cwd.startswith(root + "/"):
            return ""
    return None


def of_stack(root, folders=None):
    """All living processes of the stack; `folders` maps working folders to programs."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        state = stat(name)
        if state is None or state[0] in "ZX":
            continue
        program = _program(name, root, folders or {})
        if program is not None:
            words = _read(f"/proc/{name}/cmdline").split(b"\0")
            text = b" ".join(words).decode("utf-8", "replace").strip()
            found.append(Proc(int(name), state[1], program, text))
    return found


def command(pid):
    """The kernel's short name of what it runs."""
    return _read(f"/proc/{pid}/comm").decode("utf-8", "replace").strip()


def alive(pid):
    state = stat(pid)
    return state is not None and state[0] not in "ZX"


def send(pids, number):
    for pid in pids:
        try:
            os.kill(pid, number)
        except OSError:
            pass


def end(find, steps):
    """Signal what find() returns, step by step ((signal, seconds) each), until nothing is left.

    Returns the pids that outlived it all.
    """
    for name, seconds in steps:
        pids = [p.pid for p in find()]
        if not pids:
            return []
        send(pids, getattr(signal, name))
        deadline = time.monotonic() + seconds
        while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
            time.sleep(0.02)
    return [p.pid for p in find()]
