"""The programs of a stack: command, folder, environment, stopping, what to take over at a start."""

import hashlib
import os

# Supervisor's priorities: started upwards, stopped downwards.
STORES, REPLICAS, APP, EDGE = 10, 15, 20, 30
LOG_LIMIT = 50 * 1024 * 1024

POSTGRES_BIN = "/usr/lib/postgresql/15/bin"


class Program:
    """One supervised program."""

    def __init__(self, name, argv, cwd, stage, **more):
        self.name, self.argv, self.cwd, self.stage = name, argv, cwd, stage
        self.stop_signal = more.get("stop_signal", "TERM")
        self.stop_wait = more.get("stop_wait", 15)
        self.env = more.get("env", {})
        self.unlink = more.get("unlink", [])
        self.take_over = more.get("take_over", [])
        self.only = more.get("only", "")
        self.wait_for_end = more.get("wait_for_end", True)
        self.folder = more.get("folder", "")  # where only this program's processes work
        self.depends = more.get("depends", [])  # files: a change of one restarts the program

    def digest(self, place):
        h = hashlib.sha256(repr((self.argv, self.cwd, sorted(self.env.items()))).encode())
        for name in self.depends:
            with open(place.path(name), "rb") as f:
                h.update(hashlib.sha256(f.read()).digest())
        return h.hexdigest()[:16]

    def table_row(self, place):
        return {"argv": self.argv, "cwd": self.cwd, "env": self.env, "unlink": self.unlink,
                "take_over": self.take_over, "only": self.only,
                "wait_for_end": self.wait_for_end, "folder": self.folder,
                "log": place.path("log", f"{self.name}.log")}


def postgres_argv(place, server):
    return [f"{POSTGRES_BIN}/postgres", "-D", place.path("data", server.program),
            "-c", f"config_file={place.path('conf', server.program + '.conf')}"]


def _postgres(place, server, argv, cwd, stage, **more):
    data = place.path("data", server.program)
    return Program(
        server.program, argv, cwd, stage, stop_signal="INT", stop_wait=30,
        # Verified gone before: so the lock files say nothing any more.
        unlink=[f"{data}/postmaster.pid", f"{place.sockets}/.s.PGSQL.{server.port}.lock",
                f"{place.sockets}/.s.PGSQL.{server.port}"],
        take_over=[["SIGINT", 3], ["SIGQUIT", 1], ["SIGKILL", 2]],
        depends=[f"conf/{server.program}.conf", "conf/pg_hba.conf"], **more)


def _replicas(place, topology):
    return [_postgres(place, r, ["/usr/bin/python3", "-I", place.path("lib", "replica.py"),
                                 place.path("conf", f"{r.program}.json")],
                      place.path("run"), REPLICAS, folder=place.path("data", r.program))
            for r in topology.replicas]


def _servers(place, topology):
    programs = [_postgres(place, d, postgres_argv(place, d), place.path("data", d.program), STORES,
                          folder=place.path("data", d.program)) for d in topology.databases]
    for r in topology.redis:
        programs.append(Program(
            r.program, ["/usr/bin/redis-server", place.path("conf", r.program + ".conf")],
            place.path("data", r.program), STORES, stop_wait=30,
            folder=place.path("data", r.program),
            take_over=[["SIGTERM", 3], ["SIGKILL", 2]], depends=[f"conf/{r.program}.conf"]))
    return programs


def _s3(place, topology, secrets, region):
    data = place.path("data", "s3")
    argv = [place.path("bin", "versitygw"), "--port", f"127.0.0.1:{topology.s3_port}",
            "--region", region, "--health", "/health", "--quiet", "--keep-alive", "posix",
            "--versioning-dir", f"{data}/versions"]
    if os.path.isdir(f"{data}/metadata"):
        argv += ["--sidecar", f"{data}/metadata"]
    return Program("s3", argv + [f"{data}/objects"], data, STORES,
                   env={"ROOT_ACCESS_KEY": secrets["s3_key"],
                        "ROOT_SECRET_KEY": secrets["s3_secret"]},
                   take_over=[["SIGTERM", 2], ["SIGKILL", 2]], depends=["bin/versitygw"])


def _apps(place, topology, processes, have):
    programs = []
    config, doors = {"CONFIG_FILE": place.path("stack.env")}, topology.doors()
    for i in topology.instances:
        if "maxbooster-api" not in have:
            break
        sock = f"{place.sockets}/{i.program}.sock"
        programs.append(Program(
            i.program,
            # A child that dies 20 times within half a second of its start is a fault: multiwatch
            # then ends, and the supervisor tries again later. Debian's multiwatch 1.0.0 takes the
            # index in its list of signals for the signal: "QUIT" sends SIGINT, at which the API
            # finishes and ends.
            ["/usr/bin/spawn-fcgi", "-n", "-s", sock, "-M", "0660", "-b", "1024", "--",
             "/usr/bin/multiwatch", "-f", str(processes), "-r", "20", "-t", "500", "-s", "QUIT",
             "--", place.path("bin", "maxbooster-api")],
            place.path("run"), APP, stop_wait=20,
            env={**config, "INSTANCE_ID": str(i.number),
                 "INSTANCE_SHM": f"{place.shared_memory}/maxbooster-{place.tag}-{i.number}"},
            # A former pool finishes what it has accepted; the new one gets a socket of its own.
            unlink=[sock], take_over=[["SIGTERM", 0]], only="multiwatch", wait_for_end=False,
            depends=["stack.env", "bin/maxbooster-api"]))
    for w in topology.workers:
        if "maxbooster-worker" in have:
            files = ["stack.env", "bin/maxbooster-worker"]
            files += ["bin/maxbooster-media"] if "maxbooster-media" in have else []
            argv = [place.path("bin", "maxbooster-worker")]
            argv += ["--queues", w.queues] if w.queues else []
            programs.append(Program(w.program, argv,
                                    place.path("run"), APP, stop_wait=30,
                                    env={**config, "METRICS_PORT": str(doors[w.program])},
                                    take_over=[["SIGTERM", 3], ["SIGKILL", 2]], depends=files))
    for name in topology.schedulers:
        if "maxbooster-scheduler" in have:
            programs.append(Program(name, [place.path("bin", "maxbooster-scheduler")],
                                    place.path("run"), APP,
                                    env={**config, "METRICS_PORT": str(doors[name])},
                                    take_over=[["SIGTERM", 3], ["SIGKILL", 2]],
                                    depends=["stack.env", "bin/maxbooster-scheduler"]))
    return programs


def _edge(place, have):
    """nginx, and who carries the fleet's limits to it."""
    conf = place.path("conf", "nginx.conf")
    carrier = [Program(
        "edge-limits",
        [place.path("bin", "maxboosterctl"), "config", "follow", "RATE_LIMIT_MAX,RATE_LIMIT_WINDOW_MS",
         "/usr/bin/python3", "-I", place.path("lib", "edge.py"), place.path("run", "edge")],
        place.path("run"), EDGE, env={"CONFIG_FILE": place.path("stack.env")},
        take_over=[["SIGTERM", 3], ["SIGKILL", 2]], depends=["stack.env", "bin/maxboosterctl", "lib/edge.py"])]
    return (carrier if "maxboosterctl" in have else []) + [Program(
        "nginx", ["/usr/sbin/nginx", "-p", place.path("run", "nginx"), "-c", conf,
                  "-e", place.path("log", "nginx-error.log"), "-g", "daemon off;"],
        place.path("run", "nginx"), EDGE, stop_signal="QUIT", stop_wait=5,
        folder=place.path("run", "nginx"),
        # Orphaned workers close their listening sockets at once, and finish what they are serving.
        take_over=[["SIGQUIT", 0.3]], wait_for_end=False)]


def all_of(place, topology, values, secrets, have):
    """Every program, stores first. `have` names the built binaries; the others are left out."""
    return (_servers(place, topology) + [_s3(place, topology, secrets, values["AWS_REGION"])]
            + _replicas(place, topology)
            + _apps(place, topology, int(values["API_PROCESSES"]), have) + _edge(place, have))
