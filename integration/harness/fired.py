"""What has fired in a run: names of metrics that were not 0 in some scrape, fields of log lines.

Kept beside the record of replies, one name a line; tools/check_fired.py holds them against the docs."""
import os
import pathlib
import re
import sys
import urllib.request

from . import record

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent.parent / "tools"))

import check_fired  # noqa: E402  (found by the path above)


def documented_fields():
    """Names of the log's fields, as the docs have them."""
    return check_fired.documented_fields(check_fired.read("internals/metrics.md"))


def samples(text):
    """{name with labels: value} of a page of metrics; what is not 0 goes into the record."""
    lines = [line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#")]
    found = {name: float(value) for name, _, value in lines}
    note(name for name, value in found.items() if value)
    return found


def page(port):
    """The same of a door of the loopback."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as reply:
        return samples(reply.read().decode())


_noted = set()


def note(names):
    """Write down the names that are new."""
    fresh = set(names) - _noted
    if fresh:
        _noted.update(fresh)
        record.folder().mkdir(parents=True, exist_ok=True)
        with open(record.folder() / f"fired-{os.getpid()}.txt", "a", encoding="utf-8") as file:
            file.writelines(f"{name}\n" for name in sorted(fresh))


def note_fields(files, fields):
    """Which of the fields do lines of these log files have? A quote in a text is escaped, so this is a member."""
    for file in files:
        with open(file, "rb") as lines:
            while piece := lines.read(1 << 24):
                piece += lines.readline()
                note(f"log:{field}" for field in fields if f"log:{field}" not in _noted
                     and re.search(f'[{{,]"{field}":'.encode(), piece))


def read_all():
    """All names of a run."""
    found = set()
    for file in record.folder().glob("fired-*.txt"):
        found.update(file.read_text(encoding="utf-8").splitlines())
    return found


def clear():
    """Forget the run before."""
    for file in record.folder().glob("fired-*.txt"):
        file.unlink()
