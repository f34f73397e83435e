"""sqitch's plan and scripts, read as sqitch reads them: names, order, ids, hashes."""

import hashlib
import os
import re
from dataclasses import dataclass, field

from .say import Refusal

LINE = re.compile(r"(?P<name>@?[^\s\[@#%]\S*)(?:\s+\[(?P<requires>[^\]]*)\])?\s+"
                  r"(?P<date>\d{4}-\S+Z)\s+(?P<planner>[^<]*?)\s*<(?P<email>[^>]*)>"
                  r"(?:\s+#\s?(?P<note>.*))?$")


@dataclass
class Tag:
    """A mark behind a change."""
    name: str
    id: str
    note: str
    date: str
    planner: str
    email: str


@dataclass
class Change:
    """A change: its line of the plan, its id and hash in the ledger, its scripts."""
    name: str
    id: str
    note: str
    date: str
    planner: str
    email: str
    requires: tuple
    deploy: str
    revert: str
    verify: str
    tags: list = field(default_factory=list)

    @property
    def hash(self):
        """SHA-1 of the deploy script, which must not change once it has run."""
        return hashlib.sha1(self.deploy.encode()).hexdigest()


def _id(kind, project, name, parent, row, requires=()):
    """sqitch's id: the hash of what the plan says, as Git hashes its objects."""
    lines = [f"project {project}", f"{kind} {name}"]
    lines += [parent] if parent else []
    lines += [f"planner {row['planner']} <{row['email']}>", f"date {row['date']}"]
    if requires:
        lines.append("requires\n  + " + "\n  + ".join(requires))
    if row["note"]:
        lines += ["", row["note"]]
    text = "\n".join(lines).encode()
    return hashlib.sha1(b"%s %d\0%s" % (kind.encode(), len(text), text)).hexdigest()


class Plan:
    """The changes of a folder, in order."""

    def __init__(self, folder):
        self.folder, self.project, self.changes = folder, "", []
        try:
            with open(f"{folder}/sqitch.plan", encoding="utf-8") as f:
                for number, line in enumerate(f, 1):
                    self._read(line.strip(), number)
        except FileNotFoundError:
            return

    def _read(self, line, number):
        if line.startswith("%project="):
            self.project = line.partition("=")[2]
        if not line or line[0] in "%#":
            return
        match = LINE.match(line)
        if match is None:
            raise Refusal(f"sql/sqitch.plan:{number}: is neither a change nor a tag.")
        row = match.groupdict()
        if row["name"].startswith("@"):
            change = self.changes[-1]
            change.tags.append(Tag(row["name"], _id("tag", self.project, row["name"],
                                                    f"change {change.id}", row),
                                   row["note"] or "", row["date"], row["planner"], row["email"]))
            return
        parent = f"parent {self.changes[-1].id}" if self.changes else None
        requires = tuple((row["requires"] or "").split())
        self.changes.append(Change(
            row["name"], _id("change", self.project, row["name"], parent, row, requires),
            row["note"] or "", row["date"], row["planner"], row["email"], requires,
            self._script("deploy", row["name"]), self._script("revert", row["name"]),
            self._script("verify", row["name"])))

    def _script(self, kind, name):
        try:
            with open(f"{self.folder}/{kind}/{name}.sql", encoding="utf-8", newline="") as f:
                return f.read()
        except FileNotFoundError:
            raise Refusal(f"sql/sqitch.plan names {name}, but "
                          f"{os.path.relpath(self.folder)}/{kind}/{name}.sql is missing.") from None

    def judge(self, deployed):
        """Sentence about why a ledger [(change, hash)] does not fit this plan; None: it does."""
        names = [c for c, _ in deployed]
        plan = [c.name for c in self.changes]
        if names != plan[:len(names)]:
            at = next(i for i, n in enumerate(names) if plan[i:i + 1] != [n])
            return (f"not in the plan's order: {names[at]} is deployed where the plan has "
                    f"{plan[at] if at < len(plan) else 'nothing'}")
        for change, (_, found) in zip(self.changes, deployed):
            if change.hash != found:
                return (f"a deployed script has changed: deploy/{change.name}.sql; restore it, and "
                        "write a new change instead")
        return None
