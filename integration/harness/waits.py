"""Waiting with a deadline. The one place where a test lets time pass."""
import threading
import time


class Late(AssertionError):
    """What was waited for did not come."""


def wait_until(predicate, seconds, what, every=0.05):
    """Ask predicate until it gives something true, and return that; Late after the deadline.

    An exception of the predicate counts as "not yet" and is told in the end."""
    end = time.monotonic() + seconds
    pause = threading.Event()
    while True:
        last = None
        try:
            value = predicate()
            if value:
                return value
            last = value
        except (AssertionError, OSError) as fault:
            last = fault
        if time.monotonic() >= end:
            raise Late(f"{what}: not within {seconds} s (last: {last!r})")
        pause.wait(every)
