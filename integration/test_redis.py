"""lib/redis against one Redis and against a cluster of its own: faults, redirections, failover.

Needs no stack. A small C program (loadtest/redis_driver) speaks for the library. Its load counts by a script that must
not run twice: what a key holds lies between what was acknowledged and that plus what failed."""
import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import threading

import pytest
import redis

from harness import queuelab
from harness.redislab import RedisServer
from harness.waits import wait_until

PASSWORD = "s,cr%t"
IN_URL = "s%2Ccr%25t"
NODE_TIMEOUT_MS = 2000
MASTERS = 3


class Node(RedisServer):
    """A Redis server with a password."""

    def __init__(self, folder, *options):
        super().__init__(folder, *options, password=PASSWORD, socket_timeout=2)


class Driver:
    """A redis_driver process: a line in, a line out."""

    def __init__(self, program, url, **variables):
        env = {"PATH": os.environ["PATH"], "REDIS_URL": url}
        env.update({name: str(value) for name, value in variables.items()})
        self.process = subprocess.Popen([program], env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def send(self, *words):
        self.process.stdin.write(" ".join(str(word) for word in words) + "\n")
        self.process.stdin.flush()

    def receive(self):
        line = self.process.stdout.readline()
        assert line, f"the driver ended with {self.process.wait()}"
        return json.loads(line)

    def __call__(self, *words):
        self.send(*words)
        return self.receive()

    def ok(self, *words):
        reply = self(*words)
        assert reply["error"] == "ok", reply
        return reply["reply"]

    def works(self):
        return self("do", "x", "GET", "x")["error"] == "ok"

    def close(self):
        self.process.stdin.close()
        assert self.process.wait(20) == 0  # a sanitizer's finding is another status
        self.process.stdout.close()


@pytest.fixture(scope="module", name="program")
def _program():
    return queuelab.build("loadtest/redis_driver")[0]


@pytest.fixture(scope="module", name="folder")
def _folder():
    found = tempfile.mkdtemp(prefix="maxbooster-redis-", dir="/tmp")
    yield pathlib.Path(found)
    shutil.rmtree(found, ignore_errors=True)


@pytest.fixture(name="drive")
def _drive(program):
    """Start drivers that end with the test."""
    with contextlib.ExitStack() as stack:
        def start(url, **variables):
            driver = Driver(program, url, **variables)
            stack.callback(driver.close)
            return driver
        yield start


# --- One Redis. ---

@pytest.fixture(scope="module", name="server")
def _server(folder):
    # What was answered is with the kernel, which outlives it; everysec answers first where its disk is slow.
    node = Node(folder / "single", "--requirepass", PASSWORD, "--appendonly", "yes", "--appendfsync", "no")
    yield node
    node.kill()


@pytest.fixture(name="single")
def _single(server, drive):
    if server.process.poll() is not None:
        server.start()
    server.client.flushall()
    return drive(url_of(server), REDIS_TIMEOUT_MS=300)


def url_of(node, secret=IN_URL):
    return f"redis://:{secret}@127.0.0.1:{node.port}"


def test_commands_scripts_and_pipelines_are_answered(single):
    assert single.ok("do", "a", "SET", "a", "1") == "OK"
    assert single.ok("do", "a", "GET", "a") == "1"
    assert single.ok("do", "a", "GET", "b") is None
    assert [single.ok("count", "{c}") for _ in range(3)] == [1, 2, 3]
    assert single.ok("pipe", "t", 50) == [1, "1"] * 50
    assert single.ok("session", 3) > 0
    assert single.ok("check") is None
    refused = single("do", "a", "LPUSH", "a", "x")
    assert refused["error"] == "dependency_unavailable" and "WRONGTYPE" in refused["cause"]


def test_a_server_that_is_down_is_told_at_once_and_found_again(single, server):
    single.ok("do", "a", "GET", "a")
    server.kill()
    for _ in range(20):
        reply = single("do", "a", "GET", "a")
        assert reply["error"] == "dependency_unavailable" and reply["ms"] < 100
        assert f"127.0.0.1:{server.port}" in reply["cause"]
        assert "s,cr" not in reply["cause"]
    server.start()
    wait_until(single.works, 2, "the server to be found again")


def test_a_restart_between_two_calls_costs_nothing(single, server):
    single.ok("do", "a", "SET", "a", "1")
    server.kill()
    server.start()
    assert single.ok("do", "a", "GET", "a") == "1"


def test_a_server_that_stands_still_costs_the_limit_once(single, server):
    single.ok("do", "a", "GET", "a")
    with server.standing_still():
        first = single("do", "a", "GET", "a")
        assert first["error"] == "dependency_unavailable" and 290 <= first["ms"] < 500
        second = single("do", "a", "GET", "a")
        assert second["error"] == "dependency_unavailable" and second["ms"] < 50
        result = single("run", 16, 1500, 1, 1000)  # sixteen threads: all but the prober fail at once
        assert result["longestCallMs"] < 600 and result["failures"] > 100 and result["leaked"] == 0
    wait_until(single.works, 2, "the server to answer again")


def test_scripts_that_the_server_forgot_are_loaded_again(single, server):
    assert single.ok("count", "{x}") == 1
    server.client.script_flush()
    assert single.ok("count", "{x}") == 2
    assert single.ok("session", 2) > 0
    server.client.script_flush()
    assert single.ok("session", 2) > 0


def counted(result, read):
    """Check what a run has told against what is there; how many calls were acknowledged."""
    for key, (acked, failed) in enumerate(result["keys"]):
        value = int(read(f"load:{{{key}}}") or 0)
        assert acked <= value <= acked + failed, (key, acked, failed, value)
    assert result["leaked"] == 0
    return sum(acked for acked, _ in result["keys"])


def test_crashes_under_load_lose_no_acknowledged_call_and_double_none(single, server):
    single.send("run", 8, 4000, 50, 500)
    for _ in range(3):
        wait_until(lambda: int(server.client.get("load:{0}") or 0) > 0, 5, "the load")
        server.client.delete("unrelated")
        server.kill()
        server.start()
    result = single.receive()
    assert counted(result, server.client.get) > 500
    assert result["longestCallMs"] < 600


@pytest.mark.parametrize("url,cause", [("redis://:wr0ng@127.0.0.1:{port}", "AUTH: WRONGPASS"),
                                       ("redis://127.0.0.1:{port}", "NOAUTH"),
                                       ("redis://ann:wr0ng@127.0.0.1:{port}", "AUTH: WRONGPASS")])
def test_a_refused_password_is_told_and_never_named(single, server, drive, url, cause):
    single.ok("do", "a", "GET", "a")
    reply = drive(url.format(port=server.port))("do", "a", "GET", "a")
    assert reply["error"] == "dependency_unavailable"
    assert cause in reply["cause"] and "wr0ng" not in reply["cause"]


def test_a_user_of_the_server_is_logged_in_by_name(single, server, drive):
    single.ok("do", "a", "GET", "a")
    server.do("ACL", "SETUSER", "ann", "on", ">p@ss", "~*", "+@all")
    assert drive(f"redis://ann:p@ss@127.0.0.1:{server.port}").ok("do", "x", "ACL", "WHOAMI") == "ann"


@pytest.mark.parametrize("name", ["worker", "scheduler"])
def test_no_program_starts_on_a_redis_that_evicts(single, server, name):
    program = queuelab.build(f"bin/maxbooster-{name}")[0]
    server.client.config_set("maxmemory-policy", "volatile-lru")
    try:
        assert single("check")["error"] == "internal"
        done = subprocess.run([program], env={"REDIS_URL": url_of(server)}, capture_output=True, text=True, timeout=20,
                              check=False)
        assert done.returncode == 78
        assert "volatile-lru" in done.stderr and "noeviction" in done.stderr and "s,cr" not in done.stderr
    finally:
        server.client.config_set("maxmemory-policy", "noeviction")


# --- A cluster of three masters, each with a replica. ---

class Cluster:
    """Six nodes."""

    def __init__(self, folder):
        self.nodes = []
        for number in range(2 * MASTERS):
            self.nodes.append(Node(folder / str(number), "--cluster-enabled", "yes", "--cluster-node-timeout",
                                   str(NODE_TIMEOUT_MS), "--cluster-port", str(queuelab.free_port()),
                                   "--requirepass", PASSWORD, "--masterauth", PASSWORD, "--appendonly", "yes"))
        subprocess.run(["redis-cli", "-a", PASSWORD, "--no-auth-warning", "--cluster", "create",
                        *[f"127.0.0.1:{node.port}" for node in self.nodes], "--cluster-replicas", "1",
                        "--cluster-yes"], check=True, stdout=subprocess.DEVNULL, timeout=60)
        self.wait_whole()

    @property
    def url(self):
        """Two seeds of six."""
        return f"{url_of(self.nodes[0])},127.0.0.1:{self.nodes[4].port}"

    def node_at(self, port):
        return next(node for node in self.nodes if node.port == port)

    def slots(self):
        """(first, last, master, [replicas]) as a node that lives sees it."""
        return self._slots(next(node for node in self.nodes if node.process.poll() is None and node.answers()))

    def _slots(self, live):
        connection = live.client.connection_pool.get_connection("CLUSTER")
        try:
            connection.send_command("CLUSTER", "SLOTS")
            rows = connection.read_response()
        finally:
            live.client.connection_pool.release(connection)
        return [(row[0], row[1], self.node_at(row[2][1]), [self.node_at(r[1]) for r in row[3:]]) for row in rows]

    def is_whole(self):
        """Everybody lives, every master has its replica, and all see it so."""
        for node in self.nodes:
            info = node.do("CLUSTER INFO")
            if (info if isinstance(info, dict) else {}).get("cluster_state") != "ok":
                return False
            role = node.client.info("replication")
            if role["role"] == "slave" and role["master_link_status"] != "up":
                return False
            if role["role"] == "master" and role["connected_slaves"] < 1:
                return False
            rows = self._slots(node)
            if len({row[2].port for row in rows}) != MASTERS or any(len(row[3]) < 1 for row in rows):
                return False
        return True

    def agrees(self, slot, master):
        """Do all nodes know whose the slot is?"""
        return all(row[2] is master for node in self.nodes for row in self._slots(node) if row[0] <= slot <= row[1])

    def wait_whole(self):
        for node in self.nodes:
            if node.process.poll() is not None:
                node.start()
        wait_until(self.is_whole, 40, "a whole cluster")

    def master_of(self, key):
        slot = redis.crc.key_slot(key.encode())
        return next(row[2] for row in self.slots() if row[0] <= slot <= row[1]), slot

    def get(self, key):
        """A key's value, once the node that was asked knows who has it."""
        def value():
            with contextlib.suppress(redis.RedisError):
                return [self.master_of(key)[0].client.get(key)]
            return None
        return wait_until(value, 20, f"a node that has {key}")[0]

    def flush(self):
        for _, _, master, _ in self.slots():
            master.client.flushall()

    def kill(self):
        for node in self.nodes:
            node.kill()


@pytest.fixture(scope="module", name="cluster")
def _cluster(folder):
    found = Cluster(folder / "cluster")
    yield found
    found.kill()


@pytest.fixture(name="many")
def _many(cluster, drive):
    cluster.wait_whole()
    cluster.flush()
    return drive(cluster.url, REDIS_CLUSTER_NODES=6, REDIS_TIMEOUT_MS=1000)


def test_keys_of_all_slots_are_found(cluster, many):
    for number in range(300):
        assert many.ok("do", f"k{number}", "SET", f"k{number}", str(number)) == "OK"
    for number in range(300):
        assert many.ok("do", f"k{number}", "GET", f"k{number}") == str(number)
    sizes = [row[2].client.dbsize() for row in cluster.slots()]
    assert sum(sizes) == 300 and min(sizes) > 50
    assert many.ok("nodes") == 6
    assert many.ok("do", "-", "PING") == "PONG"
    for tag in range(30):
        assert many.ok("pipe", tag, 10) == [1, "1"] * 10
    crossed = many("do", "a", "MGET", "a", "b")
    assert crossed["error"] == "dependency_unavailable" and "CROSSSLOT" in crossed["cause"]


def test_a_cluster_in_which_one_node_evicts_is_told(cluster, many):
    assert many.ok("check") is None
    for _, _, master, _ in cluster.slots():
        master.client.config_set("maxmemory-policy", "allkeys-lfu")
        try:
            told = many("check")
            assert told["error"] == "internal" and str(master.port) in told["cause"]
        finally:
            master.client.config_set("maxmemory-policy", "noeviction")


def use_all_scripts(cluster, many):
    """Sessions and limits of users on all nodes; a job's life in each queue."""
    for _ in range(12):
        many.ok("session", 4)
    driver = queuelab.Driver(queuelab.build("loadtest/queue_driver")[0], cluster.url, REDIS_CLUSTER_NODES=6,
                             JOB_LEASE_MS=1000)
    try:
        for kind, queue in (("audio-convert", "audio"), ("csv-import", "csv"), ("email-send", "email"),
                            ("analytics-anomaly", "analytics"), ("distribution-package", "distribution")):
            user = queuelab.user_id()
            done, gone, later = (driver.push(kind, user) for _ in range(3))
            driver("cancel", kind, gone)
            leases = driver.fetch(queue, 2)
            assert [lease["job"] for lease in leases] == [done, later]
            epoch = driver("fetch", queue, "w", 0, "*")["epoch"]
            assert driver("extend", kind, done, user, leases[0]["token"], epoch)["beat"] == "ok"
            driver.finish(leases[0])
            driver.finish(leases[1], "retry", 20)
            wait_until(lambda: driver.fetch(queue, 1), 5, "the job's second try")
            assert driver("stats", queue)["leased"] == 1
            driver("pause", queue)
            driver("resume", queue)
            driver("wait", queue, 1)
            driver.finish({"type": kind, "job": later, "token": "none"})
    finally:
        driver.close()


def test_all_scripts_work_on_a_cluster(cluster, many):
    use_all_scripts(cluster, many)


def times_asked(node):
    """How many calls have come by ASK."""
    return node.client.info("commandstats").get("cmdstat_asking", {"calls": 0})["calls"]


def migrate(cluster, key, to):
    """Move a key's slot to another master, one key at a time, as redis-cli does it, under calls to it."""
    source, slot = cluster.master_of(key)
    ids = {node.port: node.do("CLUSTER MYID").decode() for node in (source, to)}
    to.do("CLUSTER SETSLOT", slot, "IMPORTING", ids[source.port])
    source.do("CLUSTER SETSLOT", slot, "MIGRATING", ids[to.port])
    while names := source.do("CLUSTER GETKEYSINSLOT", slot, 1):
        source.do("MIGRATE", "127.0.0.1", to.port, names[0], 0, 5000, "AUTH", PASSWORD)
    asked = times_asked(to)
    wait_until(lambda: times_asked(to) > asked, 5, "a call that follows ASK")
    others = [row[2] for row in cluster.slots() if row[2] not in (source, to)]
    for node in dict.fromkeys((to, source, *others)):
        node.do("CLUSTER SETSLOT", slot, "NODE", ids[to.port])
    wait_until(lambda: cluster.agrees(slot, to), 10, "all nodes to know")


def test_slots_that_move_under_load_fail_no_call(cluster, many):
    many.send("run", 8, 8000, 24, 300)
    moved = 0
    for key in range(0, 24, 2):
        name = f"load:{{{key}}}"
        source, _ = cluster.master_of(name)
        wait_until(lambda: source.client.exists(name), 5, "the load")
        target = next(row[2] for row in cluster.slots() if row[2] is not source)
        migrate(cluster, name, target)
        moved += 1
    result = many.receive()
    assert moved == 12
    assert counted(result, cluster.get) > 2000
    assert result["failures"] == 0, result["cause"]
    assert result["longestCallMs"] < 1100


def test_a_planned_failover_loses_and_doubles_nothing(cluster, many):
    many.send("run", 8, 4000, 60, 500)
    _, _, master, replicas = cluster.slots()[0]
    replicas[0].do("CLUSTER FAILOVER")
    wait_until(lambda: replicas[0].client.info("replication")["role"] == "master", 10, "the failover")
    result = many.receive()
    assert counted(result, cluster.get) > 1000
    assert result["longestGapMs"] < 3000 and result["longestCallMs"] < 1100
    assert master.answers()


def doubled(result, read):
    """Calls that were run twice, over all keys: a failover may lose what was not yet copied, and nothing else."""
    values = [(int(read(f"load:{{{key}}}") or 0), acked, failed) for key, (acked, failed) in enumerate(result["keys"])]
    return sum(max(0, value - acked - failed) for value, acked, failed in values)


def test_a_killed_master_is_replaced_within_seconds_without_a_restart(cluster, many):
    victim = cluster.slots()[0][2]
    many.send("run", 8, 12000, 60, 1000)
    wait_until(lambda: int(victim.client.info("stats")["total_commands_processed"]) > 0, 5, "the load")
    victim.kill()
    result = many.receive()
    assert result["failures"] > 0  # its slots were without a node for a while
    assert result["longestGapMs"] < 3 * NODE_TIMEOUT_MS
    assert result["longestCallMs"] < 1100
    assert doubled(result, cluster.get) == 0 and result["leaked"] == 0
    use_all_scripts(cluster, many)
    assert many("run", 4, 500, 60, 1000)["failures"] == 0


def test_a_master_that_stands_still_is_replaced_and_holds_nobody_up(cluster, many):
    victim = cluster.slots()[-1][2]
    many.ok("do", "a", "GET", "a")
    still = victim.standing_still()
    many.send("run", 8, 12000, 60, 1000)
    timer = threading.Timer(1, still.__enter__)
    timer.start()
    result = many.receive()
    timer.join()
    try:
        assert result["failures"] > 0
        assert result["longestGapMs"] < 3 * NODE_TIMEOUT_MS + 1000
        assert result["longestCallMs"] < 2200
        assert doubled(result, cluster.get) == 0
    finally:
        still.__exit__(None, None, None)


def test_without_any_node_calls_fail_at_once(cluster, many):
    many.ok("do", "a", "GET", "a")
    for node in cluster.nodes:
        node.kill()
    for _ in range(5):
        reply = many("do", "a", "GET", "a")
        assert reply["error"] == "dependency_unavailable" and reply["ms"] < 300
    for node in cluster.nodes:
        node.start()
    wait_until(many.works, 30, "the cluster to be found again")
