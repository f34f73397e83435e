#!/usr/bin/python3
"""Check sql/: plan and scripts, locks that a running release would feel, queries.

usage: lint_sql.py [SQL_FOLDER]   one line "file:line: sentence" per fault; then exit status 1

A statement that a running release would feel (sql_safety.py) may stand where the comment before it
says why: "-- unsafe: reason". Changes before the plan's first tag are exempt: no release has run on
them.
"""
import os
import re
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import gen_queries  # noqa: E402  (beside this file)
import sql_safety  # noqa: E402

LINE_MAX = 100
ENDS = {"deploy": "COMMIT", "revert": "COMMIT", "verify": "ROLLBACK"}


class Lint:
    """Collects faults."""

    def __init__(self, folder):
        self.folder, self.faults, self.released = folder, [], set()

    def fault(self, path, line, sentence):
        """Note one."""
        self.faults.append((os.path.relpath(path), line, sentence))

    def plan(self):
        """The changes of the plan, each with its three scripts and no script without a change."""
        path = os.path.join(self.folder, "sqitch.plan")
        names, first_tag = [], None
        with open(path, encoding="utf-8") as f:
            for number, line in enumerate(f, 1):
                match = re.match(r"([a-z][a-z0-9_]*) ", line)
                if match:
                    names.append(match.group(1))
                elif line[0] == "@" and first_tag is None:
                    first_tag = len(names)
                elif line.strip() and line[0] not in "%@#":
                    self.fault(path, number, "is not a change in lower_snake")
                if match and " # " not in line:
                    self.fault(path, number, "has no note that says what for")
        self.released = set(names[first_tag:]) if first_tag is not None else set()
        for kind in ENDS:
            listing = os.listdir(os.path.join(self.folder, kind))
            found = {n[:-4] for n in listing if n.endswith(".sql")}
            for name in names:
                if name not in found:
                    self.fault(path, 0, f"{kind}/{name}.sql is missing")
            for name in sorted(found - set(names)):
                self.fault(os.path.join(self.folder, kind, name + ".sql"), 0, "is not in the plan")
        return names

    def script(self, kind, name):
        """Form of one script; what it may do, where it is a deploy script."""
        path = os.path.join(self.folder, kind, name + ".sql")
        if not os.path.exists(path):
            return
        with open(path, encoding="utf-8") as f:
            text = f.read()
        statements = list(sql_safety.split(text))
        is_alone = any(s.has("concurrently") for s in statements)
        first, last = (statements[0], statements[-1]) if statements else (None, None)
        if not is_alone and not (first and first.tokens == ["begin"]
                                 and last.tokens == [ENDS[kind].lower()]):
            self.fault(path, 1, f"does not run from BEGIN to {ENDS[kind]}")
        if is_alone:
            self.alone(path, statements)
        for number, line in enumerate(text.splitlines(), 1):
            if len(line) > LINE_MAX:
                self.fault(path, number, f"is longer than {LINE_MAX} columns")
            if line.startswith("\\"):
                self.fault(path, number, "is a command of psql: scripts are plain SQL")
        if kind == "deploy" and name in self.released:
            for number, sentence in sql_safety.judge(text):
                self.fault(path, number, sentence)

    def alone(self, path, statements):
        """A script outside a transaction: each statement of it may be repeated after a kill."""
        for statement in statements:
            if statement.tokens in (["begin"], ["commit"]):
                self.fault(path, statement.line, "CONCURRENTLY runs in no transaction: leave out "
                           "BEGIN and COMMIT")
            elif not (statement.has("concurrently") and statement.has("if")):
                self.fault(path, statement.line, "stands beside CONCURRENTLY, hence outside a "
                           "transaction: a change of its own")

    def queries(self):
        """What the generator would refuse, and what it lets pass but we do not want."""
        found, faults = gen_queries.read_all(os.path.join(self.folder, "queries"))
        for path, line, sentence in faults:
            self.fault(path, line, sentence)
        for query in found if not faults else []:
            resource = os.path.basename(query.path)[:-4].rstrip("s")
            if not query.name.startswith((resource + "_", resource + "s_")):
                self.fault(query.path, query.line,
                           f"'{query.name}' does not begin with '{resource}s_' as its file does")
            if query.kind == "many" and not re.search(r"\blimit\b", query.text, re.I):
                self.fault(query.path, query.line, f"'{query.name}' is :many without a LIMIT")
            if re.search(r"\A(update|delete)\b(?!.*\bwhere\b)", query.text, re.I | re.S):
                self.fault(query.path, query.line, f"'{query.name}' changes every row")
        for name in sorted(os.listdir(os.path.join(self.folder, "queries"))):
            path = os.path.join(self.folder, "queries", name)
            with open(path, encoding="utf-8") as f:
                for number, line in enumerate(f, 1):
                    if len(line.rstrip("\n")) > LINE_MAX:
                        self.fault(path, number, f"is longer than {LINE_MAX} columns")


def main():
    """Check all of it."""
    root = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
    lint = Lint(os.path.normpath(sys.argv[1] if len(sys.argv) > 1 else os.path.join(root, "sql")))
    for name in lint.plan():
        for kind in ENDS:
            lint.script(kind, name)
    lint.queries()
    for path, line, sentence in sorted(lint.faults):
        print(f"{path}:{line}: {sentence}", file=sys.stderr)
    return 1 if lint.faults else 0


if __name__ == "__main__":
    sys.exit(main())
