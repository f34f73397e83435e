"""The record of a run: every request and its reply, one JSON object a line."""
import json
import os
import pathlib
import re

BODY_KEPT = 262144


def folder():
    """Where the record lies: MB_RECORD, by default build/record."""
    root = pathlib.Path(__file__).resolve().parent.parent.parent
    return pathlib.Path(os.environ.get("MB_RECORD") or root / "build/record")


def exchange_of(method, path, request_body, status, headers, body):
    """An exchange as the record and the contract see it; bodies are text."""
    return {"method": method, "path": path, "requestBody": request_body, "status": status,
            "headers": dict(headers), "body": body}


class Recorder:
    """Appends to a file of this process; lines are short-lived and never edited."""

    def __init__(self):
        folder().mkdir(parents=True, exist_ok=True)
        self._file = open(folder() / f"{os.getpid()}.jsonl", "a", buffering=1, encoding="utf-8")

    def add(self, exchange):
        """Record an exchange with the name of the running test, without the session's cookie."""
        line = dict(exchange, test=os.environ.get("PYTEST_CURRENT_TEST", ""))
        line["headers"] = {name: re.sub("(session=)[^;]+", r"\1***", value)
                           for name, value in exchange["headers"].items()}
        for member in ("requestBody", "body"):
            if line[member] and len(line[member]) > BODY_KEPT:
                return
        self._file.write(json.dumps(line) + "\n")


def read_all():
    """All exchanges of a run."""
    for file in sorted(folder().glob("*.jsonl")):
        with open(file, encoding="utf-8") as lines:
            for line in lines:
                yield json.loads(line)


def clear():
    """Forget the run before."""
    for file in folder().glob("*.jsonl"):
        file.unlink()
