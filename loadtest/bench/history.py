"""What earlier runs on this machine have measured: one JSON object a line, a line a run."""

import json
import os
import subprocess

from world import REPO


def _revision():
    done = subprocess.run(["git", "-C", REPO, "describe", "--always", "--dirty"],
                          capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def line_of(summary):
    """A run's medians by the names of their rows, with what they depend on."""
    return {"at": summary["at"], "revision": _revision(), "machine": summary["machine"],
            "settings": summary["settings"],
            "figures": {r["name"]: r["median"] for r in summary["rows"]},
            "ladder": {r["name"]: r["perSecond"]["median"] for r in summary["ladder"]}}


def latest(path, machine):
    """Figures of the latest run on such a processor; {} where there is none."""
    found = {}
    try:
        with open(path, encoding="utf-8") as f:
            for text in f:
                run = json.loads(text)
                if all(run["machine"][k] == machine[k] for k in ("processor", "cores")):
                    found = run["figures"]
    except FileNotFoundError:
        pass
    return found


def append(path, summary):
    """Keep this run: one write, so that a line is whole or not there."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(fd, (json.dumps(line_of(summary), ensure_ascii=False) + "\n").encode())
    finally:
        os.close(fd)
