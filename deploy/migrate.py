#!/usr/bin/python3
"""Changes of the schema on every database of a configuration, wherever it runs.

usage: deploy/migrate.py deploy|verify|rollback|status [--config FILE] [--sql FOLDER]

The databases are those of SHARD_COUNT, DATABASE_URL and DATABASE_SHARD_nn_URL, from FILE (NAME=value
lines, as CONFIG_FILE of the programs) or else from the environment. `make db-migrate` and so on do the
same on a local stack. sql/README.md tells the time limits (MIGRATION_…).
"""

import argparse
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
sys.dont_write_bytecode = True

from stack import migrations, settings  # noqa: E402  (the package deploy/stack/)
from stack.say import Refusal  # noqa: E402

SQL = os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(__file__))), "sql")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("deploy", "verify", "rollback", "status"))
    parser.add_argument("--config", metavar="FILE")
    parser.add_argument("--sql", metavar="FOLDER", default=SQL)
    given = parser.parse_args()
    try:
        values = settings.read_env_file(given.config) if given.config else dict(os.environ)
        work = migrations.Migrations(given.sql, migrations.places_of_config(values),
                                     lambda text: print(text, flush=True))
        if given.what == "status":
            lines, well = work.status_lines()
            print("\n".join(lines))
            return 0 if well else 1
        return 0 if getattr(work, given.what)() else 1
    except (Refusal, OSError) as refusal:
        print(refusal, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
