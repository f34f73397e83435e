"""edge.py FOLDER: nginx's limits, from RATE_LIMIT_MAX and RATE_LIMIT_WINDOW_MS of the environment.

Copied into the stack, where `maxboosterctl config follow` runs it with the values that the fleet is told.
It writes the files that nginx.conf includes from FOLDER; where one has changed it has nginx read them, and
waits until its new workers are there and none of the old ones takes requests any more. Files that nginx
refuses are taken back. FOLDER/read holds what nginx is known to have read, so that a death in between is
made good by the next run.
"""

import os
import signal
import subprocess
import sys
import time

FACTOR = 2               # the edge's limits against RATE_LIMIT_MAX
CONNECTIONS_MIN = 1024
CONNECTIONS_MAX = 65535  # nginx's own bound of limit_conn
RELOAD_S = 5


def texts(most, window_ms):
    """{file: text}: never tighter than RATE_LIMIT_MAX over its window."""
    per_minute = -(-most * FACTOR * 60000 // window_ms)
    connections = min(max(most, CONNECTIONS_MIN), CONNECTIONS_MAX)
    window_s = max(1, window_ms // 1000)
    return {
        "zone.conf": f"limit_req_zone $edge_key zone=requests:8m rate={per_minute}r/m;\n",
        "requests.conf": f"limit_req zone=requests burst={most * FACTOR} nodelay;\n",
        "connections.conf": f"limit_conn connections {connections};\n",
        "policy.conf": f"add_header RateLimit-Policy '\"default\";q={most};w={window_s}' always;\n"
                       "add_header RateLimit '\"default\";r=0;t=1' always;\n",
    }


def read(folder, names):
    """What is there."""
    found = {}
    for name in names:
        try:
            with open(f"{folder}/{name}", encoding="ascii") as f:
                found[name] = f.read()
        except FileNotFoundError:
            pass
    return found


def write(folder, files):
    """Each whole or not at all."""
    for name, text in files.items():
        with open(f"{folder}/{name}.new", "w", encoding="ascii") as f:
            f.write(text)
        os.replace(f"{folder}/{name}.new", f"{folder}/{name}")


def workers(pid):
    """Pids of the children of nginx's master."""
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as f:
        return set(f.read().split())


def serves(pid):
    """Does an old worker still take connections? Its title says when it has stopped to."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as f:
            return b"shutting down" not in f.read()
    except OSError:
        return False


def master(folder):
    """Its pid; None where it does not run."""
    try:
        with open(f"{folder}/nginx.pid", encoding="ascii") as f:
            pid = int(f.read())
        with open(f"/proc/{pid}/comm", encoding="ascii") as f:
            return pid if f.read().strip() == "nginx" else None
    except (OSError, ValueError):
        return None


def have_them_read(run, conf, log):
    """Have nginx check, then read its files; a sentence where it does not. One that does not run reads
    them when it starts."""
    check = subprocess.run(["/usr/sbin/nginx", "-t", "-q", "-p", run, "-e", "stderr", "-c", conf],
                           stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if check.returncode != 0:
        return f"nginx refuses its limits: {check.stderr.strip()}"
    pid = master(run)
    if pid is None:
        return None
    before = workers(pid)
    os.kill(pid, signal.SIGHUP)
    deadline = time.monotonic() + RELOAD_S
    while not workers(pid) - before or any(serves(old) for old in before):
        if time.monotonic() > deadline:
            return f"nginx does not read its files; see {log}"
        time.sleep(0.01)
    return None


def main(folder):
    stack = os.path.dirname(os.path.dirname(folder))
    files = texts(int(os.environ["RATE_LIMIT_MAX"]), int(os.environ["RATE_LIMIT_WINDOW_MS"]))
    old, known = read(folder, files), {"read": "".join(files.values())}
    if old != files or read(folder, known) not in ({}, known):
        write(folder, files)
        fault = have_them_read(f"{stack}/run/nginx", f"{stack}/conf/nginx.conf", f"{stack}/log/nginx-error.log")
        if fault is not None:
            write(folder, old)
            return fault
    write(folder, known)
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
