#!/usr/bin/python3
"""Check sql/: plan and scripts, locks that a running release would feel, queries.

usage: lint_sql.py [SQL_FOLDER]   one line "file:line: sentence" per fault; then exit status 1

A statement that is refused for its locks may stand where the line before it says why:
"-- unsafe: reason". Changes before the plan's first tag are exempt: no release has run on them.
"""
import os
import re
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import gen_queries  # noqa: E402  (beside this file)

LINE_MAX = 100
ENDS = {"deploy": "COMMIT;", "revert": "COMMIT;", "verify": "ROLLBACK;"}

# What takes a lock that stops a running release, or breaks its statements. Tables made by the same
# script are exempt.
ALTER = r"\bALTER\s+TABLE\b.*\b"
ADD = ALTER + r"ADD\s+(CONSTRAINT\s+\S+\s+)?"
ADD_COLUMN = ALTER + r"ADD\s+(COLUMN\s+)?(?!CONSTRAINT|CHECK|FOREIGN|UNIQUE|PRIMARY|EXCLUDE)\S+"
UNSAFE = [
    (ADD_COLUMN + r"[^,;]*\bDEFAULT\s+(now|random|gen_random|clock|uuid)",
     "a column with a volatile default rewrites the table"),
    (ADD_COLUMN + r"(?:(?!DEFAULT)[^,;])*\bNOT\s+NULL\b(?!.*DEFAULT)",
     "a NOT NULL column without a default fails on rows that are there"),
    (ALTER + r"SET\s+NOT\s+NULL\b", "SET NOT NULL scans the table under its lock"),
    (ALTER + r"ALTER\s+(COLUMN\s+)?\S+\s+(SET\s+DATA\s+)?TYPE\b",
     "another type may rewrite the table and breaks prepared statements"),
    (ALTER + r"RENAME\b", "a new name breaks the running release"),
    (ALTER + r"DROP\s+(COLUMN|CONSTRAINT)\b", "the running release may need it"),
    (ADD + r"(CHECK|FOREIGN\s+KEY)\b(?!.*\bNOT\s+VALID\b)",
     "checks all rows under a lock: add it NOT VALID, validate it in a change of its own"),
    (ADD + r"(UNIQUE|PRIMARY\s+KEY|EXCLUDE)\b(?!.*\bUSING\s+INDEX\b)",
     "builds its index under a lock: build the index CONCURRENTLY first"),
    (r"\bCREATE\s+(UNIQUE\s+)?INDEX\b(?!\s+CONCURRENTLY)", "stops writes: use CONCURRENTLY"),
    (r"\bDROP\s+INDEX\b(?!\s+CONCURRENTLY)",
     "waits for all readers under a lock: use CONCURRENTLY"),
    (r"\bDROP\s+TABLE\b", "the running release may need it"),
    (r"\bTRUNCATE\b", "deletes what a running release may read"),
    (r"\b(VACUUM\s+FULL|CLUSTER|LOCK\s+TABLE|REINDEX\b(?!\s+\S+\s+CONCURRENTLY))",
     "locks the whole table"),
]


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
        statements = [(n, s) for n, s in split(text)]
        words = [s for _, s in statements]
        is_alone = any(re.search(r"\bCONCURRENTLY\b", s) for s in words)
        if not is_alone and (not words or words[0] != "BEGIN" or words[-1] + ";" != ENDS[kind]):
            self.fault(path, 1, f"does not run from BEGIN to {ENDS[kind]}")
        if is_alone and "BEGIN" in words:
            self.fault(path, 1, "CONCURRENTLY runs in no transaction: leave out BEGIN and COMMIT")
        for number, line in enumerate(text.splitlines(), 1):
            if len(line) > LINE_MAX:
                self.fault(path, number, f"is longer than {LINE_MAX} columns")
        if kind == "deploy" and name in self.released:
            self.locks(path, text, statements)

    def locks(self, path, text, statements):
        """Refuse what a running release would feel."""
        lines = text.splitlines()
        made = {m.group(1).lower() for _, s in statements
                for m in re.finditer(r"(?i)^CREATE\s+TABLE\s+(?:IF\s+NOT\s+EXISTS\s+)?(\S+)", s)}
        for number, statement in statements:
            if number > 1 and re.match(r"\s*--\s*unsafe:\s*\S+", lines[number - 2]):
                continue
            target = re.search(r"(?i)\b(?:ALTER\s+TABLE\s+(?:ONLY\s+|IF\s+EXISTS\s+)*|ON\s+)(\w+)",
                               statement)
            if target and target.group(1).lower() in made:
                continue
            for pattern, why in UNSAFE:
                if re.search(pattern, statement, re.I | re.S):
                    self.fault(path, number, why)

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


def split(text):
    """Statements without comments, each with the number of its first line."""
    clean = re.sub(r"'(?:[^']|'')*'|--[^\n]*",
                   lambda m: m.group() if m.group()[0] == "'" else " " * len(m.group()), text)
    at = 0
    for part in re.split(r";", clean):
        start = at + len(part) - len(part.lstrip())
        if part.strip():
            yield text.count("\n", 0, start) + 1, part.strip()
        at += len(part) + 1


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
