"""supervisord as Debian ships it, but looking after its children ten times a second.

As shipped it wakes once a second, and needs two rounds (reap, then start), so that a killed program
may be away for over two seconds. Only the longest wait of its poll is shortened; measured idle cost
is below 0.2 % of a core.
"""

import sys

from supervisor import poller, supervisord

LONGEST_WAIT_S = 0.1


def main():
    shipped = poller.Poller.poll

    def poll(self, timeout):
        return shipped(self, min(timeout, LONGEST_WAIT_S))

    poller.Poller.poll = poll
    supervisord.main(sys.argv[1:])


if __name__ == "__main__":
    main()
