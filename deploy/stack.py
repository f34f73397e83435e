#!/usr/bin/python3
"""The local stack: up, down, status, logs, clean-data, db-*. `make up` is the way to call it."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
sys.dont_write_bytecode = True

from stack import cli  # noqa: E402  (the package deploy/stack/, not this file)

if __name__ == "__main__":
    sys.exit(cli.main(sys.argv[1:]))
