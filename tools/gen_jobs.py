#!/usr/bin/python3
"""The table of the job types that have code, for gperf, and the prototypes of their functions.

usage: gen_jobs.py JOB_DEF WORKERS_FOLDER OUT_FOLDER

A type of job.def has code where WORKERS_FOLDER has a job_<small letters>.c for it."""
import os
import re
import sys

HEAD = """%{
#include "workers/worker.h"

/* With few keys gperf's hash looks at the length only. */
#pragma GCC diagnostic ignored "-Wunused-parameter"
%}
%struct-type
%omit-struct-type
%define slot-name name
%define hash-function-name job_code_hash
%define lookup-function-name job_code_lookup
%compare-strncmp
%readonly-tables
%null-strings
struct job_code;
%%
"""


def write(path, text):
    """Only where it changes, so that make builds nothing anew for nothing."""
    old = None
    if os.path.exists(path):
        with open(path, encoding="utf-8") as f:
            old = f.read()
    if old != text:
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)


def main(job_def, workers, out):
    with open(job_def, encoding="utf-8") as f:
        rows = re.findall(r'^JOB\((\w+), (\w+), "([a-z-]+)"', f.read(), flags=re.M)
    for symbol, small, name in rows:
        if symbol.lower() != small or name.replace("-", "_") != small:
            sys.exit(f"{job_def}: {symbol}, {small} and {name} must be one name in three forms")
    there = [(small, name) for _, small, name in rows
             if os.path.exists(os.path.join(workers, f"job_{small}.c"))]
    os.makedirs(out, exist_ok=True)
    write(os.path.join(out, "jobs.gperf"),
          HEAD + "".join(f'"{name}", .run = job_{small}\n' for small, name in there))
    write(os.path.join(out, "job_protos.h"),
          "".join(f"enum err job_{small}(struct job *j);\n" for small, _ in there))


if __name__ == "__main__":
    main(*sys.argv[1:])
