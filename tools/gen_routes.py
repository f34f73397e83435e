#!/usr/bin/python3
"""From fcgi/routes.gperf: numbered routes for gperf, handler prototypes, route names, docs/routes.md.

usage: gen_routes.py routes.gperf OUT_DIR      writes routes.gperf, handlers.h, route_names.c
       gen_routes.py routes.gperf --docs       prints docs/routes.md
"""
import re
import sys

ROW = re.compile(r'^"((?:GET|POST|PATCH|PUT|DELETE) /[^"]*)",\s*(.*)$')


def rows(path):
    for number, line in enumerate(open(path, encoding="utf-8"), 1):
        match = ROW.match(line)
        if match:
            yield number, match.group(1), match.group(2).strip()
        elif line.startswith('"'):
            sys.exit(f"{path}:{number}: a route is \"METHOD /path\", .h = …")


# How a route keeps what an Idempotency-Key promises (fcgi/router.h).
IDEM = {"": "", "IDEM_TRANSACTION": "in the effect's transaction", "IDEM_CLAIM": "claimed first",
        "IDEM_ENDING": "claimed first", "IDEM_HANDLER": "by address or user"}


def member(rest, name):
    match = re.search(r"\." + name + r"\s*=\s*(\w+)", rest)
    return match.group(1) if match else ""


def generate(path, out):
    table = list(rows(path))
    numbered, index = [], 0
    for line in open(path, encoding="utf-8"):
        match = ROW.match(line)
        if match:
            line = f'"{match.group(1)}", .index = {index}, {match.group(2).strip()}\n'
            index += 1
        numbered.append(line)
    with open(f"{out}/routes.gperf", "w", encoding="utf-8") as f:
        f.write("".join(numbered))
    handlers = sorted({member(rest, "h") for _, _, rest in table})
    with open(f"{out}/handlers.h", "w", encoding="utf-8") as f:
        f.write("/* Generated from fcgi/routes.gperf. */\n#ifndef GEN_HANDLERS_H\n#define GEN_HANDLERS_H\n\n"
                '#include "lib/err.h"\n\nstruct req;\n\n')
        f.writelines(f"enum err {name}(struct req *r);\n" for name in handlers)
        f.write("\n#endif\n")
    with open(f"{out}/route_names.c", "w", encoding="utf-8") as f:
        f.write('/* Generated from fcgi/routes.gperf. */\n#include "fcgi/router.h"\n\n'
                "static const char *const keys[] = {\n")
        f.writelines(f'    "{key}",\n' for _, key, _ in table)
        f.write("};\n\nconst char *route_key(int index)\n{\n    return keys[index];\n}\n\n"
                "int route_count(void)\n{\n    return (int)ARRAY_LEN(keys);\n}\n")


def without_redis(rest):
    """What becomes of a route while Redis does not answer; as fcgi/guard_session.c does it."""
    auth, rate = member(rest, "auth"), member(rest, "rate")
    if rate == "RATE_FREE":
        return "served"
    if auth in ("AUTH_SESSION", "AUTH_ADMIN") or rate == "RATE_CRITICAL":
        return "503"
    return "served as to a stranger, limited by the process's own buckets" if auth == "AUTH_OPTIONAL" \
        else "served, limited by the process's own buckets"


def docs(path):
    print("# Routes\n\nGenerated from `fcgi/routes.gperf`; `*` stands for an id. "
          "`/api/openapi.json` says what each takes and answers.\n")
    print("| route | handler | session | rate | class | Idempotency-Key | while Redis does not answer |\n"
          "|---|---|---|---|---|---|---|")
    for _, key, rest in rows(path):
        print(f"| `{key}` | `{member(rest, 'h')}` | {member(rest, 'auth')[5:].lower()} | "
              f"{member(rest, 'rate')[5:].lower()} | "
              f"{(member(rest, 'class') or 'CLASS_NORMAL')[6:].lower().replace('_', ' ')} | "
              f"{IDEM[member(rest, 'idem')]} | {without_redis(rest)} |")
    print("\n[Guards](internals/guards.md) says what each class and each layer means: what is refused, when, and what is told.")


if sys.argv[2] == "--docs":
    docs(sys.argv[1])
else:
    generate(sys.argv[1], sys.argv[2])
