"""launch.py ROOT PROGRAM: become a program of the stack. What supervisord starts, each time.

The idea: whatever an earlier life of the program left behind (orphaned children that hold its port,
its shared memory or its socket) is ended or moved away first, so that a start never fails for what
a kill -9 left. Then the log file becomes the standard output, so that no line passes through the
supervisor, and the program takes this process's place.
"""

import json
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.dont_write_bytecode = True

import procs  # noqa: E402


def open_log(path, limit):
    """Append to path; a file past its limit becomes path.1 first."""
    try:
        if os.stat(path).st_size > limit:
            os.replace(path, path + ".1")
    except FileNotFoundError:
        pass
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o640)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)


def main(root, name):
    with open(f"{root}/conf/programs.json", encoding="utf-8") as f:
        table = json.load(f)
    program = table["programs"][name]
    os.umask(0o077)
    open_log(program["log"], table["log_limit"])
    folders = {p["folder"]: n for n, p in table["programs"].items() if p["folder"]}
    parents = {os.getpid(), os.getppid()}

    def leftovers():
        return [p for p in procs.of_stack(root, folders)
                if p.program == name and p.pid not in parents
                and program["only"] in ("", procs.command(p.pid))]

    if program["take_over"]:
        left = procs.end(leftovers, program["take_over"])
        if left and program["wait_for_end"]:
            print(f"launch: {name}: processes {left} of an earlier life do not end", flush=True)
            return 1
    for path in program["unlink"]:
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
    os.chdir(program["cwd"])
    os.environ.update(program["env"])
    os.environ["MAXBOOSTER_PROGRAM"] = name
    os.execv(program["argv"][0], program["argv"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
