"""Threads that ask again and again while something is done to what they ask."""
import threading

from .waits import wait_until

ANSWERS_S = 60


class Asking:
    """A thread for each turn while the block runs. A turn is a function that asks once and returns what
    was wrong with the answer, or None; one that raises was wrong too. count tells how many turns are
    over, bad what was wrong. pause_s is between two turns of a thread."""

    def __init__(self, turns, pause_s=0.0):
        self.bad, self.count = [], 0
        self._pause_s, self._is_over, self._lock = pause_s, threading.Event(), threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(turn,)) for turn in turns]

    def _run(self, turn):
        while not self._is_over.wait(self._pause_s):
            try:
                wrong = turn()
            except Exception as fault:  # pylint: disable=broad-except
                wrong = fault
            with self._lock:
                self.count += 1
                if wrong is not None:
                    self.bad.append(wrong)

    def go_on(self, count):
        """Wait until so many more turns are over."""
        wanted = self.count + count
        wait_until(lambda: self.count >= wanted, ANSWERS_S, f"{count} more answers", every=0.01)

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._is_over.set()
        for thread in self._threads:
            thread.join()


def not_200(reply):
    """A reply of harness.client that is wrong; None: it is as it should be."""
    return None if reply.status == 200 else reply
