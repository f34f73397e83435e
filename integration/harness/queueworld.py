"""Where the queue's checker lets its storms happen: one Redis, or a cluster of three masters.

All of our programs reach each server through a link that can be slow or cut."""
import contextlib
import pathlib
import shutil
import signal
import tempfile

import redis

from . import queuelab
from .redislab import PERSISTENT, RedisServer
from .slowlink import SlowLink
from .waits import Late, wait_until

NODE_TIMEOUT_MS = 1500
MASTERS = 3


class Node(RedisServer):
    """A Redis server behind a link."""

    def __init__(self, folder, *options):
        super().__init__(folder, *PERSISTENT, *options, socket_timeout=5)
        self.link = SlowLink(self.port)

    def fill(self, is_full):
        """No room for another byte, or room again."""
        with contextlib.suppress(redis.RedisError):
            self.client.config_set("maxmemory", 1 if is_full else 0)

    def close(self):
        """End it and its link."""
        self.kill()
        self.link.close()


class Single:
    """One Redis."""

    name = "single"

    def __init__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="queuecheck-", dir="/tmp"))
        self.nodes = [Node(self.folder / "redis")]
        self.settings = {"REDIS_URL": f"redis://127.0.0.1:{self.nodes[0].link.port}"}

    def masters(self):
        """Servers that hold data."""
        return self.nodes

    def node_of(self, _key):
        """The server of a key."""
        return self.nodes[0]

    def heal(self):
        """Everybody lives, and nothing is slow or full."""
        for node in self.nodes:
            node.link.delay_s = 0
            if not node.lives():
                node.start()
            node.signal(signal.SIGCONT)
            node.fill(False)

    def flush(self):
        """Forget all."""
        for node in self.masters():
            node.client.flushall()

    def close(self):
        """End all."""
        for node in self.nodes:
            node.close()
        shutil.rmtree(self.folder, ignore_errors=True)


class Cluster(Single):
    """Three masters, each with a replica."""

    name = "cluster"

    def __init__(self):  # pylint: disable=super-init-not-called
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="queuecheck-", dir="/tmp"))
        self.nodes = []
        for number in range(2 * MASTERS):
            bus = str(queuelab.free_port())
            node = Node(self.folder / str(number), "--cluster-enabled", "yes", "--cluster-port",
                        bus, "--cluster-announce-bus-port", bus, "--cluster-node-timeout",
                        str(NODE_TIMEOUT_MS))
            node.do("CONFIG", "SET", "cluster-announce-port", node.link.port)
            node.options += ("--cluster-announce-port", str(node.link.port))
            self.nodes.append(node)
        self._join()
        links = ",".join(f"127.0.0.1:{node.link.port}" for node in self.nodes[::4])
        self.settings = {"REDIS_URL": f"redis://{links}", "REDIS_CLUSTER_NODES": "6"}

    def _join(self):
        for node in self.nodes[1:]:
            self.nodes[0].do("CLUSTER", "MEET", "127.0.0.1", node.port, self._bus(node))
        for number, node in enumerate(self.nodes[:MASTERS]):
            node.do("CLUSTER", "ADDSLOTSRANGE", number * 16384 // MASTERS,
                    (number + 1) * 16384 // MASTERS - 1)
        wait_until(lambda: all(self._knows(node) == 2 * MASTERS for node in self.nodes), 30,
                   "all nodes to know each other")
        for number, node in enumerate(self.nodes[MASTERS:]):
            master = self.nodes[number].do("CLUSTER", "MYID").decode()
            wait_until(lambda n=node, m=master: self._replicates(n, m), 20, "a replica")
        self.wait_whole()

    @staticmethod
    def _bus(node):
        return int(node.options[node.options.index("--cluster-port") + 1])

    @staticmethod
    def _knows(node):
        info = node.do("CLUSTER INFO")
        return int(info["cluster_known_nodes"]) if isinstance(info, dict) else 0

    @staticmethod
    def _replicates(node, master):
        with contextlib.suppress(redis.RedisError):
            return node.do("CLUSTER", "REPLICATE", master)
        return False

    def _rows(self, node):
        connection = node.client.connection_pool.get_connection("CLUSTER")
        try:
            connection.send_command("CLUSTER", "SLOTS")
            rows = connection.read_response()
        finally:
            node.client.connection_pool.release(connection)
        by_link = {n.link.port: n for n in self.nodes}
        return [(row[0], row[1], by_link[row[2][1]], [by_link[r[1]] for r in row[3:]])
                for row in rows]

    def rows(self):
        """(first, last, master, [replicas]) as one that lives sees it."""
        for node in self.nodes:
            with contextlib.suppress(redis.RedisError):
                if node.lives() and node.answers():
                    return self._rows(node)
        raise OSError("no node answers")

    def masters(self):
        return list(dict.fromkeys(row[2] for row in self.rows()))

    def node_of(self, key):
        slot = redis.crc.key_slot(key.encode())
        return next(row[2] for row in self.rows() if row[0] <= slot <= row[1])

    def is_whole(self):
        """Everybody lives, every master has its replica, and all see it so."""
        for node in self.nodes:
            with contextlib.suppress(redis.RedisError):
                role = node.client.info("replication")
                is_good = (role["master_link_status"] == "up" if role["role"] == "slave"
                           else role["connected_slaves"] >= 1)
                rows = self._rows(node)
                if (is_good and len({row[2].port for row in rows}) == MASTERS
                        and all(row[3] for row in rows)
                        and sum(row[1] - row[0] + 1 for row in rows) == 16384):
                    continue
            return False
        return True

    def wait_whole(self):
        """Until it is."""
        try:
            wait_until(self.is_whole, 60, "a whole cluster")
        except Late as late:
            views = [n.client.execute_command("CLUSTER NODES") for n in self.nodes if n.lives()]
            raise Late(f"{late}\n{views[0]}\n{views[-1]}") from late

    def heal(self):
        super().heal()
        self.wait_whole()

    def migrate(self, key):
        """Move the slot of a key to another master, key by key, as redis-cli does."""
        slot = redis.crc.key_slot(key.encode())
        source = self.node_of(key)
        target = next(node for node in self.masters() if node is not source)
        ids = {node: node.do("CLUSTER", "MYID").decode() for node in (source, target)}
        target.do("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source])
        source.do("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target])
        while names := source.do("CLUSTER", "GETKEYSINSLOT", slot, 1):
            source.do("MIGRATE", "127.0.0.1", target.port, names[0], 0, 5000)
        for node in dict.fromkeys([target, source, *self.masters()]):
            node.do("CLUSTER", "SETSLOT", slot, "NODE", ids[target])

    def fail_over(self, key):
        """kill -9 of the master of a key; back when its replica has taken over."""
        victim = self.node_of(key)
        victim.kill()

        def is_replaced():
            with contextlib.suppress(redis.RedisError, OSError):
                return self.node_of(key) is not victim
            return False
        wait_until(is_replaced, 30, "the replica to take over")
        victim.start()
