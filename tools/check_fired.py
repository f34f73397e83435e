#!/usr/bin/python3
"""Hold what the docs name against what has fired in a test run: each metric of docs/metrics.md was once
not 0, each field of docs/internals/metrics.md stood in a log line.

    check_fired.py       the record of the last run (MB_RECORD, by default build/record)"""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "integration"))
sys.dont_write_bytecode = True


# What needs more than every run has: name: what stacks of the run note where they have it.
NEEDS = {"maxbooster_db_replica_calls_total": "has:replicas"}


def documented_metrics(page):
    """Names in the first column of the page's tables, with labels where it has them."""
    return re.findall(r"^\| `([a-z0-9_]+(?:\{[^}]*\})?)` \|", page, re.M)


def documented_fields(page):
    """Names in the first column of the table behind "A request's line", and those of every line."""
    part = page.split("## A request's line", 1)[1].split("\n## ", 1)[0]
    begin = re.findall(r"`(\w+)`", part.split("\n|", 1)[0])
    columns = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", part, re.M)
    return begin + [name for column in columns for name in re.findall(r"`(\w+)`", column)]


def has_fired(metric, samples):
    """Was a sample of it not 0? A metric with labels is a sample; a histogram has its counts."""
    if "{" in metric:
        return metric in samples
    return any(re.fullmatch(rf"{metric}(_count)?(\{{.*\}})?", sample) for sample in samples)


def faults(metrics, fields, fired):
    """What the docs name and nothing has shown."""
    mute = [f"{name}: never told anything but 0 in this run" for name in metrics
            if not has_fired(name, fired) and NEEDS.get(name, "") in fired | {""}]
    return mute + [f"{name}: in no log line of this run" for name in fields if f"log:{name}" not in fired]


def read(path):
    """A page of the docs."""
    return (ROOT / "docs" / path).read_text(encoding="utf-8")


def main(args):
    from harness import fired  # found by the path above
    metrics, fields = documented_metrics(read("metrics.md")), documented_fields(read("internals/metrics.md"))
    if args:
        print(__doc__, file=sys.stderr)
        return 2
    found = faults(metrics, fields, fired.read_all())
    print("\n".join(found))
    print(f"fired: {len(metrics)} metrics and {len(fields)} log fields are documented, {len(found)} have not fired")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
