#!/usr/bin/python3
"""Turn the Lua scripts of a module into a C header of string constants.

usage: gen_lua.py OUT.h COMMON.lua SCRIPT.lua...

Each script becomes `static const char <name>_lua[]`, with the common part in front and without
comments, since the server gets the text.
"""

import pathlib
import re
import sys


def lines_of(path):
    """The lines that mean something, without trailing comments."""
    for line in path.read_text(encoding="utf-8").splitlines():
        line = re.sub(r"(^|\s)--.*$", "", line).strip()
        if line:
            yield line


def constant(path, common):
    escaped = (line.replace("\\", "\\\\").replace('"', '\\"')
               for line in [*common, *lines_of(path)])
    text = "\n".join(f'    "{line}\\n"' for line in escaped)
    return f"static const char {path.stem}_lua[] =\n{text};\n"


def main():
    out, common, *scripts = map(pathlib.Path, sys.argv[1:])
    shared = list(lines_of(common))
    parts = [constant(script, shared) for script in scripts]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("/* Made by tools/gen_lua.py. */\n" + "\n".join(parts), encoding="utf-8")


if __name__ == "__main__":
    main()
