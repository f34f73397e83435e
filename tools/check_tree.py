#!/usr/bin/python3
"""The house rules that a program can judge. Each fault is one line: file:line: what to do.

usage: check_tree.py [--api PROGRAM] [CHECK...]

Only files that git knows are looked at. Without CHECK all checks run; `check_tree.py --list` names them.
PROGRAM (maxbooster-api) prints the generated pages that docs/ must equal.
"""
import os
import re
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import measure  # noqa: E402  (beside this file)

COLUMNS = {".c": 100, ".h": 100, ".py": 140, ".mk": 120}
FUNCTION_MAX, FILE_MAX, COMMENTED_MIN = 100, 1000, 0.90
POLL_PAUSE_MAX_S = 0.05
SUBJECT_MAX, COMMITS = 72, 5

# Which sources may include a third-party header: (header, pattern of the files).
DOORS = [
    (r"libpq-fe\.h|postgresql/", r"lib/pg\w*\.[ch]$"),
    (r"hiredis/", r"lib/redis\w*\.c$"),
    (r"curl/", r"lib/(http|smtp)\.c$"),
    (r"json-c/", r"lib/json\.c$"),
    (r"sodium|openssl/", r"lib/crypto\.c$"),
    (r"expat", r"lib/s3\w*\.c$"),
    (r"fcgiapp|fcgi_stdio", r"fcgi/conn\.c$"),
    (r"ebur128\.h|aubio/", r"workers/media/analysis\.c$"),
    (r"libav\w+/|libsw\w+/|seccomp|png\.h", r"workers/media/"),
]
# Which folder may include which: a file that matches the first must not include the second.
ARROWS = [
    (r"^lib/", r"(fcgi|handlers|workers|deploy)/", "lib/ knows neither request nor job"),
    (r"^handlers/", r"fcgi/(?!req\.h)", "handlers see fcgi/req.h and nothing else of fcgi/"),
    (r"^handlers/", r"workers/", "handlers push jobs; they do not know workers"),
    (r"^workers/", r"(fcgi|handlers)/", "workers see lib/ only"),
    (r"^fcgi/(?!test_|fuzz_)", r"handlers/", "fcgi/ reaches handlers by the route table only"),
]
api = None


def run(*command, **options):
    return subprocess.run(command, capture_output=True, text=True, **options)


def tracked(*patterns):
    names = run("git", "ls-files", "--", *patterns).stdout.split()
    return [n for n in names if os.path.isfile(n)]


_texts = {}


def text(path):
    if path not in _texts:
        _texts[path] = measure.read(path)
    return _texts[path]


def lines(path):
    return enumerate(text(path).splitlines(), 1)


def code(path):
    """Lines of a C file without comments and texts, so that a word in them is no call."""
    blank = lambda m: re.sub(r"[^\n]", " ", m.group(0))  # noqa: E731
    bare = re.sub(r'/\*.*?\*/|//[^\n]*|"(?:[^"\\\n]|\\.)*"', blank, text(path), flags=re.S)
    return enumerate(bare.splitlines(), 1)


def check_format():
    """C sources are as clang-format 14 writes them."""
    files = tracked("*.c", "*.h")
    done = run("clang-format-14", "--dry-run", "-Werror", *files)
    seen = set()
    for match in re.finditer(r"^(\S+?):(\d+):\d+: error:", done.stderr, re.M):
        if match.group(1) not in seen:
            seen.add(match.group(1))
            yield match.group(1), match.group(2), f"run clang-format-14 -i {match.group(1)}"


def check_columns():
    """No line is longer than its language's limit."""
    for path in tracked("*.c", "*.h", "*.py", "*.mk"):
        limit = COLUMNS[os.path.splitext(path)[1]]
        for number, line in lines(path):
            if len(line) > limit:
                yield path, number, f"{len(line)} columns; wrap at {limit}"


def scripts(first_line):
    for path in tracked():
        with open(path, "rb") as f:
            if re.match(first_line, f.readline(80)):
                yield path


def check_shell():
    """Shell scripts pass shellcheck."""
    files = list(scripts(rb"#!/bin/(ba)?sh"))
    done = run("shellcheck", "-f", "gcc", *files)
    for match in re.finditer(r"^(\S+?):(\d+):\d+: (.*)$", done.stdout, re.M):
        yield match.groups()


def check_python():
    """Python files compile."""
    for path in sorted(set(tracked("*.py")) | set(scripts(rb"#!/usr/bin/python3"))):
        try:
            compile(text(path), path, "exec")
        except SyntaxError as error:
            yield path, error.lineno, error.msg


def check_generated():
    """Generated pages equal what their tables give."""
    pages = [("docs/config.md", [api, "-x", "config-docs"]),
             (".env.example", [api, "-x", "env-example"]),
             ("docs/errors.md", [api, "-x", "errors-docs"]),
             ("docs/metrics.md", [api, "-x", "metrics-docs"]),
             ("docs/events.md", [api, "-x", "events-docs"]),
             ("docs/routes.md", [sys.executable, "tools/gen_routes.py", "fcgi/routes.gperf", "--docs"])]
    for path, command in pages:
        if api is None and command[0] is None:
            continue
        if not os.path.exists(path) or text(path) != run(*command).stdout:
            yield path, 1, "is not what its table gives: run make docs, and commit it"


def check_doors():
    """Each third-party header is included by one module only."""
    for path in tracked("*.c", "*.h"):
        for number, line in lines(path):
            match = re.match(r"\s*#\s*include\s*<(.+)>", line)
            for header, allowed in DOORS if match else []:
                if re.match(header, match.group(1)) and not re.search(allowed, path) \
                        and not re.search("^loadtest/|/test_", path):
                    yield path, number, f"only {allowed} may include <{match.group(1)}>; ask that module"


def check_arrows():
    """Includes point one way: fcgi, handlers, workers to lib."""
    for path in tracked("*.c", "*.h"):
        for number, line in lines(path):
            match = re.match(r'\s*#\s*include\s*"(.+)"', line)
            for source, target, why in ARROWS if match else []:
                if re.match(source, path) and re.match(target, match.group(1)):
                    yield path, number, f"must not include {match.group(1)}: {why}"


def check_ownership():
    """Requests own their memory by an arena: no free and no goto in handlers/ and fcgi/."""
    for path in tracked("handlers/*.c", "fcgi/*.c"):
        if "/test_" in path or "/fuzz_" in path:
            continue
        for number, line in code(path):
            if re.search(r"\bgoto\b", line):
                yield path, number, "no goto here: return, the arena cleans up"
            if re.search(r"\b(free|malloc|calloc|realloc|strdup)\s*\(", line) and \
                    path not in ("fcgi/conn.c", "fcgi/main.c"):
                yield path, number, "take memory from the request's arena"


def check_sleeps():
    """Tests wait for conditions, not for time."""
    for path in tracked("*test_*.c", "*fuzz_*.c"):
        for number, line in code(path):
            if re.search(r"\b(u|nano)?sleep\s*\(", line):
                yield path, number, "do not sleep in a test: set the clock, or wait for the condition"
    for path in tracked("integration/test_*.py", "proxy/test_*.py"):
        for number, line in lines(path):
            # a server that is slow on purpose is no wait of the test's, and a poll's pause is short
            match = re.search(r"\btime\.sleep\(([\d.]+)\)(?!\"|.*#)", line)
            if match and float(match.group(1)) > POLL_PAUSE_MAX_S:
                yield path, number, "do not sleep in a test: poll with a deadline, or say why in a comment here"


def check_contracts():
    """Prototypes of headers have a contract right above."""
    found = [(path, line, good) for path in tracked("*.h") for line, good in measure.prototypes(text(path))]
    bare = [(path, line) for path, line, good in found if not good]
    if len(bare) > (1 - COMMENTED_MIN) * len(found):
        for path, line in bare:
            yield path, line, "say above what it does, who owns what, whether it blocks, which errors"


def check_lengths():
    """Functions and files stay within their bounds."""
    for path in tracked("*.c", "*.h"):
        count = text(path).count("\n")
        if count > FILE_MAX:
            yield path, FILE_MAX, f"{count} lines; split the file at {FILE_MAX}"
        for name, start, length, _ in measure.functions(text(path)):
            if length > FUNCTION_MAX:
                yield path, start, f"{name}() has {length} lines; split it at {FUNCTION_MAX}"


def check_modules():
    """Each module of lib/ has its header and its test; a split one (x_part.c) may share those of x."""
    for path in tracked("lib/*.c"):
        name = os.path.basename(path)[:-2]
        if name.startswith(("test_", "fuzz_")):
            continue
        for form, kind in (("lib/%s.h", "header"), ("lib/test_%s.c", "test")):
            if not os.path.exists(form % name) and not os.path.exists(form % name.split("_")[0]):
                yield path, 1, f"has no {kind} {form % name}"


def check_config():
    """Every configuration variable is documented by a sentence."""
    for number, line in lines("lib/config.def"):
        if line.startswith("CFG_"):
            doc = re.search(r'"((?:[^"\\]|\\.)*)"\)\s*$', line)
            if not doc or len(doc.group(1)) < 10 or not doc.group(1).endswith("."):
                yield "lib/config.def", number, "the last member must be a sentence that documents it"


# Settings of the contract whose feature is not there yet.
UNREAD = {"stripe_monthly_price", "stripe_yearly_price", "stripe_lifetime_price", "database_replica_url",
          "db_max_replica_lag_ms"}


def check_limits():
    """No limit is a number in the code: it is a setting that is read, or a constant with a name."""
    programs = [p for p in tracked("lib/*.c", "fcgi/*.c", "handlers/*.c", "workers/*.c", "workers/media/*.c", "deploy/ctl/*.c")
                if "/test_" not in p and "/fuzz_" not in p]
    read = "".join(text(p) for p in programs)
    stack = "".join(text(p) for p in tracked("deploy/stack/*.py"))
    for number, line in lines("lib/config.def"):
        match = re.match(r"CFG_\w+\((\w+),", line)
        name = match and match.group(1)
        # job types are read through a table of job.def
        if name and name not in UNREAD and not name.startswith("job_") and not re.search(r"(->|\.)" + name + r"\b", read) \
                and not re.search(r"\b" + name.upper() + r"\b", stack):
            yield "lib/config.def", number, f"nothing reads {name}: a setting without effect"
    for path in programs:
        for number, line in code(path):
            # replies' statuses, shares of 100 and nanoseconds are no limits, nor are samples and pixels
            if re.search(r"(?<![-<>])[<>]=?\s*(?!1000000000\b)[1-9]\d{2,}\b(?![.])", line) \
                    and not path.startswith("workers/media/") and not re.search(r"status|reply|percent", line):
                yield path, number, "a bare number is a limit here: make it a setting, or give it a name and a reason"
            if re.search(r"\b\w*(timeout|limit|_max|_wait_ms|pause_ms|ttl)\w*\s*=\s*[1-9]\d+\s*;", line):
                yield path, number, "a bare number is a limit here: make it a setting, or give it a name and a reason"


def check_rules():
    """Prometheus' rules pass their tests, and name metrics that there are."""
    folder = "deploy/prometheus"
    done = run("promtool", "test", "rules", "rules_test.yml", cwd=folder)
    if done.returncode != 0:
        yield f"{folder}/rules_test.yml", 1, (done.stdout + done.stderr).replace("\n", " ")[:600]
    known = set(re.findall(r'"(\w+)"', text("lib/metrics.def"))) | {"maxbooster_layer_active"}
    for path in (f"{folder}/recording.yml", f"{folder}/alerts.yml"):
        for number, line in lines(path):
            for name in re.findall(r"\b(?:maxbooster|http_server)_\w+", re.sub(r"\w+:[\w:]+", "", line)):
                if name not in known and re.sub(r"_(bucket|sum|count)$", "", name) not in known:
                    yield path, number, f"{name} is no metric of lib/metrics.def"


def check_openapi():
    """The document has an operation for each handler of the route table, and no other."""
    handlers, operations = {}, {}
    for number, line in lines("fcgi/routes.gperf"):
        match = re.search(r"\.h = h_(\w+)", line)
        if match:
            handlers[match.group(1)] = ("fcgi/routes.gperf", number)
    for path in tracked("docs/openapi/*.yaml"):
        for number, line in lines(path):
            match = re.match(r"\s*operationId:\s*['\"]?(?:h_)?(\w+)", line)
            if match:
                operations[match.group(1)] = (path, number)
    for name in sorted(set(handlers) - set(operations)):
        yield *handlers[name], f"docs/openapi/ has no operationId {name}"
    for name in sorted(set(operations) - set(handlers)):
        yield *operations[name], f"no route has a handler h_{name}"


def check_sql():
    """Migrations and queries pass tools/lint_sql.py."""
    if os.path.exists("tools/lint_sql.py"):
        done = run(sys.executable, "tools/lint_sql.py")
        for line in done.stdout.splitlines() + done.stderr.splitlines():
            match = re.match(r"(\S+?):(\d+): (.*)", line)
            if match:
                yield match.groups()
            elif done.returncode != 0:
                yield "sql", 1, line


def check_placement():
    """Each table of the schema says in shard_tables where its rows belong, so that shards can move."""
    def words(pattern):
        return [(path, number, m.group(1)) for path in tracked("sql/deploy/*.sql")
                for number, line in lines(path) if (m := re.match(pattern, line))]
    placed = {name for _, _, name in words(r"\s*\('(\w+)', '(?:user|owned|email|database)'")}
    for path, number, name in words(r"CREATE TABLE (?:IF NOT EXISTS )?(?:public\.)?(\w+) "):
        if name not in placed:
            yield path, number, f"{name} has no row ('{name}', …) in shard_tables: INSERT it in this change"


def check_commits():
    """Subjects of the newest commits: "area: what changes", at most 72 characters, no full stop."""
    for line in run("git", "log", "--no-merges", f"-{COMMITS}", "--format=%h %s").stdout.splitlines():
        commit, subject = line.split(" ", 1)
        if len(subject) > SUBJECT_MAX or subject.endswith(".") or \
                not re.match(r"[a-z][a-z0-9_./-]*(, [a-z0-9_./-]+)*: \S", subject):
            yield commit, 0, f'"{subject}" is not "area: what changes" in {SUBJECT_MAX} characters'


def check_words():
    """No unfinished places, no paths of somebody's machine."""
    for path in tracked("*.c", "*.h", "*.py", "*.md", "*.mk", "*.sql", "*.lua", "*.yaml", "Makefile"):
        for number, line in lines(path):
            if re.search(r"\b(TODO|FIXME|XXX|HACK)\b", line) and path != "tools/check_tree.py":
                yield path, number, "finish it, or open an issue"
            if re.search(r"(^|[\s\"'`(=])/(work|root|home)/", line) and path != "tools/check_tree.py":
                yield path, number, "a path of one machine does not belong here"


def check_links():
    """Relative links of the pages lead somewhere."""
    for path in tracked("*.md"):
        for number, line in lines(path):
            for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", line):
                if not re.match(r"[a-z]+:|/", target) and \
                        not os.path.exists(os.path.join(os.path.dirname(path), target)):
                    yield path, number, f"{target} is not there"


def check_security():
    """Tests that docs/security.md names are there."""
    tests = set()
    for path in tracked("integration/*.py", "proxy/*.py", "*test_*.c"):
        tests |= set(re.findall(r"\b(test_\w+)\(", text(path)))
    for number, line in lines("docs/security.md"):
        for name in re.findall(r"`(test_\w+)`", line):
            if name not in tests:
                yield "docs/security.md", number, f"there is no test {name}"
        for name in re.findall(r"`((?:lib|fcgi|deploy)/[\w/.]+)`", line):
            if not os.path.exists(name):
                yield "docs/security.md", number, f"there is no {name}"


def check_globals():
    """No module exports an object that can be changed."""
    library = os.path.join(os.path.dirname(os.path.dirname(api or "build/bin/x")), "lib.a")
    if not os.path.exists(library):
        return
    member = ""
    for line in run("objdump", "-t", library).stdout.splitlines():
        match = re.match(r"(\w+)\.o:", line)
        member = match.group(1) if match else member
        # .data.rel.ro is constant once the program has started
        match = re.match(r"[0-9a-f]+ g +O (?:\.data|\.bss|\*COM\*)\s+[0-9a-f]+ (?:\.hidden )?(\w+)$", line)
        if match and not match.group(1).startswith("__"):
            yield f"lib/{member}.c", 1, f"{match.group(1)} is exported and can be changed: make it static or const"


def check_hardening():
    """Programs are position-independent, relocated read-only and bound at start, with canaries and checked copies."""
    folder = os.path.dirname(api or "build/bin/x")
    if "build/" in folder.replace("build/bin", "") or not os.path.isdir(folder):
        return  # a sanitized tree has other flags
    for name in ("api", "worker", "scheduler"):
        path = os.path.join(folder, f"maxbooster-{name}")
        if not os.path.exists(path):
            continue
        told = run("readelf", "-W", "-h", "-l", "-d", "-s", path).stdout
        for needle, what in ((r"Type:\s+DYN", "position-independent"), ("GNU_RELRO", "RELRO"),
                             (r"BIND_NOW|Flags: NOW", "bound at start"),
                             ("__stack_chk_fail", "stack protector"), (r"__\w+_chk\b", "FORTIFY_SOURCE")):
            if not re.search(needle, told):
                yield path, 0, f"is not built with: {what}"
        if re.search(r"GNU_STACK.*RWE", told):
            yield path, 0, "has an executable stack"


CHECKS = {name[6:]: fn for name, fn in list(globals().items()) if name.startswith("check_")}


def main(argv):
    global api
    if argv[:1] == ["--list"]:
        for name, fn in CHECKS.items():
            print(f"{name:<10} {fn.__doc__.splitlines()[0]}")
        return 0
    if argv[:1] == ["--api"]:
        api, argv = argv[1], argv[2:]
    faults, start = 0, time.monotonic()
    for name in argv or CHECKS:
        for path, line, what in CHECKS[name]():
            print(f"{path}:{line}: {what} [{name}]")
            faults += 1
    print(f"lint: {len(argv or CHECKS)} checks, {faults} faults, {time.monotonic() - start:.1f} s")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
