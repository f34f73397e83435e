"""Redis Cluster of a stack: formed once, and looked at.

form() asks what is there and does only what is missing, so it may be interrupted and run again, and a
cluster that stands, whoever is master in it by now, is left as it is.
"""

import socket
import time

from .say import Refusal
from .topology import REDIS_SLOTS

FORM_WITHIN_S = 40
LOOK_EVERY_S = 0.05


class RedisError(Exception):
    """An error reply."""


class Connection:
    """One connection to a node: commands as words, replies as Python values."""

    def __init__(self, port, password, seconds=2):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=seconds)
        self.file = self.socket.makefile("rb")
        self("AUTH", password)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()
        self.socket.close()

    def __call__(self, *words):
        out = [f"*{len(words)}\r\n".encode()]
        for word in words:
            data = str(word).encode()
            out.append(b"$%d\r\n%s\r\n" % (len(data), data))
        self.socket.sendall(b"".join(out))
        return self._reply()

    def _reply(self):
        line = self.file.readline()
        if not line.endswith(b"\r\n"):
            raise OSError("Redis has closed the connection")
        kind, rest = line[:1], line[1:-2].decode("utf-8", "replace")
        if kind == b"-":
            raise RedisError(rest)
        if kind == b":":
            return int(rest)
        if kind == b"$":
            size = int(rest)
            return None if size < 0 else self.file.read(size + 2)[:-2].decode("utf-8", "replace")
        if kind == b"*":
            return [self._reply() for _ in range(int(rest))]
        return rest


class Member:
    """What a node says of another (or of itself): a line of CLUSTER NODES."""

    def __init__(self, line):
        words = line.split(" ")
        self.id, self.flags, self.master = words[0], words[2].split(","), words[3]
        self.port = int(words[1].split("@")[0].rpartition(":")[2])
        self.is_linked = words[7] == "connected"
        self.slots = set()
        for word in words[8:]:
            if not word.startswith("["):  # in motion
                first, _, last = word.partition("-")
                self.slots |= set(range(int(first), int(last or first) + 1))

    @property
    def is_master(self):
        return "master" in self.flags

    @property
    def is_well(self):
        """Known, and not failing in the eyes of who was asked."""
        return self.is_linked and not {"fail", "fail?", "handshake", "noaddr"} & set(self.flags)


def members(connection):
    return [Member(line) for line in connection("CLUSTER", "NODES").splitlines()]


def _myself(connection):
    return next(m for m in members(connection) if "myself" in m.flags)


class Cluster:
    """The nodes of a topology."""

    def __init__(self, nodes, password):
        self.nodes, self.password = nodes, password

    def _open(self, node):
        return Connection(node.port, self.password)

    def _await(self, what, is_so, deadline):
        while True:
            try:
                if is_so():
                    return
            except (OSError, RedisError):
                pass
            if time.monotonic() > deadline:
                raise Refusal(f"Redis Cluster: {what} takes too long; see log/redis*.log of the "
                              "stack.")
            time.sleep(LOOK_EVERY_S)

    def _know_each_other(self):
        """Does each node reach each by its present address?"""
        ports = {n.port for n in self.nodes}
        for node in self.nodes:
            with self._open(node) as c:
                found = [m for m in members(c) if m.is_well]
                if {m.port for m in found} != ports or len(found) != len(ports):
                    return False
        return True

    def _is_whole(self):
        """Do all nodes say that all is well, and has each replica its master's data?"""
        for node in self.nodes:
            with self._open(node) as c:
                info = c("CLUSTER", "INFO").splitlines()
                if not {"cluster_state:ok", f"cluster_slots_ok:{REDIS_SLOTS}"} <= set(info):
                    return False
                replication = c("INFO", "replication")
                if "role:slave" in replication and "master_link_status:up" not in replication:
                    return False
        return True

    def _meet(self):
        """The first meets whom it does not know by the present address; they tell each other."""
        with self._open(self.nodes[0]) as c:
            known = {m.port for m in members(c)}
            for node in self.nodes:
                if node.port not in known:
                    c("CLUSTER", "MEET", "127.0.0.1", node.port, node.bus_port)

    def _give_slots(self):
        """Slots that nobody has go to whom they are meant for. True if there were any."""
        with self._open(self.nodes[0]) as c:
            missing = set(range(REDIS_SLOTS)) - set().union(*(m.slots for m in members(c)))
        for node in self.nodes:
            mine = sorted(missing & set(node.slots or ()))
            if mine:
                with self._open(node) as c:
                    if _myself(c).is_master:
                        c("CLUSTER", "ADDSLOTS", *mine)
        return bool(missing)

    def _follow(self):
        """Who should copy another, and neither does nor has slots, begins to. And who copies from
        an address that its master had before is told again (Redis 7.0 does not see that)."""
        for node in self.nodes:
            with self._open(node) as c:
                known = members(c)
                me = next(m for m in known if "myself" in m.flags)
                if me.is_master and not me.slots and node.master:
                    with self._open(self.nodes[node.master - 1]) as other:
                        c("CLUSTER", "REPLICATE", _myself(other).id)
                master = next((m for m in known if m.id == me.master), None)
                if master and f"master_port:{master.port}" not in c("INFO", "replication"):
                    c("CLUSTER", "REPLICATE", master.id)

    def form(self):
        """Make it whole, from nothing or from half of something. True if it was made now."""
        deadline = time.monotonic() + FORM_WITHIN_S

        def settled():
            if self._know_each_other():
                return True
            self._meet()
            return False

        self._await("the nodes' meeting", settled, deadline)
        is_new = False

        def served():
            nonlocal is_new
            if self._is_whole():
                return True
            is_new = self._give_slots() or is_new
            self._follow()
            return False

        self._await("its forming", served, deadline)
        return is_new


def word_of(node, password):
    """(is it well, a word about it) of one node."""
    try:
        with Connection(node.port, password, 1) as c:
            me = _myself(c)
            is_ok = "cluster_state:ok" in c("CLUSTER", "INFO")
            master = next((m for m in members(c) if m.id == me.master), None)
    except (OSError, RedisError):
        return False, "does not answer"
    role = f"master of {len(me.slots)} slots" if me.is_master else \
        f"replica of :{master.port}" if master else "replica of nobody"
    return is_ok, f"{role} on :{node.port}" + ("" if is_ok else ", cluster is not whole")
