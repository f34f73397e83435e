"""Words to the person at the terminal: progress lines, and one sentence when it cannot go on."""

import sys
import time


class Refusal(Exception):
    """It cannot go on; the message is one sentence that says what to do."""


class Progress:
    """One line a step, with the time that it took."""

    def __init__(self, out=sys.stdout):
        self.out = out
        self.begun = time.monotonic()

    def step(self, name):
        return _Step(self, name)

    def line(self, text):
        print(text, file=self.out, flush=True)

    def elapsed(self):
        return time.monotonic() - self.begun


class _Step:
    """Prints "name ... result (seconds)"; note() is the result."""

    def __init__(self, progress, name):
        self.progress, self.name, self.result = progress, name, "done"

    def note(self, text):
        self.result = text

    def __enter__(self):
        self.begun = time.monotonic()
        print(f"  {self.name:<34}", end="", file=self.progress.out, flush=True)
        return self

    def __exit__(self, kind, _value, _trace):
        took = time.monotonic() - self.begun
        text = self.result if kind is None else "failed"
        print(f"{text}  ({took:.1f} s)", file=self.progress.out, flush=True)
        return False
