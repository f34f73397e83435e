"""Each dependency x {down, slow, half-open}: an instance of two processes, or a worker, reaches it by a
link of its own. Each test reads what readiness and the metrics tell of it."""
import collections
import concurrent.futures
import contextlib
import os
import re
import subprocess
import types

import psycopg2
import pytest

from harness import audio, fired, mail
from harness.apilab import api_instance
from harness.client import Client
from harness.slowlink import SlowLink, bound_socket
from harness.waits import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.fault, pytest.mark.xdist_group("private")]

PROCESSES, THREADS = 2, 8
SLOW_S = 0.03  # each way: far below every limit of LIMITS
LIMITS = {"REDIS_TIMEOUT_MS": 400, "DB_STATEMENT_TIMEOUT_MS": 400, "DB_CONNECTION_TIMEOUT": 400, "S3_TIMEOUT_MS": 2000,
          "S3_CONNECT_TIMEOUT_MS": 400, "S3_RETRIES": 1, "REQUEST_TIMEOUT_MS": 4000,
          "API_THREADS": THREADS, "QUEUE_DELAY_TARGET_MS": 0, "LOAD_TOLERANCE_PERCENT": 0,
          "RATE_LIMIT_MAX": 1000000, "RATE_LIMIT_CRITICAL_MAX": 100000, "BULKHEAD_PERCENT": 75,
          "DB_BREAKER_OPEN_MS": 100, "DEPEND_BREAKER_OPEN_MS": 100}  # a probe that hangs outlasts it
CLOSED, OPEN, HALF_OPEN = 0, 1, 2
AT_ONCE = 2


class Case:
    """What a test of one dependency needs to know."""

    def __init__(self, private, user, link, values):
        self.private, self.user, self.link, self.values = private, user, link, values
        self.api = None

    @classmethod
    def port_of(cls, stack, _user):
        """Where it listens."""
        return stack.port + cls.target

    @classmethod
    def settings(cls, stack, user, port):
        """How the instance reaches it by the link."""
        name, url = cls.address(stack, user)
        return {name: re.sub(r"(:|port=)\d+(?=&|$)", rf"\g<1>{port}", re.sub(r"host=[^&]*", "host=127.0.0.1", url))}

    def needs(self):
        """A request that cannot do without it: (status, document)."""
        return self.api.ask("GET", "/api/auth/me", self.user.client.token)

    def without(self):
        """Statuses of requests that do without it."""
        return [self.api.ask("GET", path, token)[0] for path, token in self.others()]

    def breaker(self):
        """The state of its breaker, as the metrics tell it."""
        return max(v for k, v in self.api.metrics().items() if k.startswith(self.breaker_metric))

    def waited_us(self):
        """Time that requests have spent waiting for it."""
        return self.api.metrics()[f"maxbooster_{self.short}_time_microseconds_total"]


class Redis(Case):
    """Sessions need it; strangers are limited without it."""
    check, short, good = "redis", "redis", 200
    breaker_metric = 'maxbooster_dependency_breaker_state{dependency="redis"}'
    target = 4

    @staticmethod
    def address(stack, _user):
        """The setting that says where it is, and what it says."""
        return "REDIS_URL", stack.env["REDIS_URL"]

    def others(self):
        """What does without it."""
        return [("/api/system/health", None), (f"/api/users/{self.user.id}", None)]


class Database(Case):
    """The shard of one user; another's is reached as ever."""
    check, short, good = "database", "db", 200
    breaker_metric = "maxbooster_db_breaker_state"

    @classmethod
    def port_of(cls, stack, user):
        """Of the server that has the user's shard; there may be several."""
        return int(re.search(r"port=(\d+)", stack.shard_urls()[stack.shard_of(user.id)]).group(1))

    @staticmethod
    def address(stack, user):
        """The same."""
        shard = stack.shard_of(user.id)
        return "DATABASE_URL" if shard == 0 else f"DATABASE_SHARD_{shard:02d}_URL", stack.shard_urls()[shard]

    def others(self):
        """What does without it: the other shard's user too."""
        return [("/api/system/health", None), ("/api/auth/sessions", self.user.client.token),
                ("/api/auth/me", self.user.neighbour.client.token)]


class Storage(Case):
    """It is asked for an object that nobody has put there: a conflict."""
    check, short, good = "storage", "s3", 409
    breaker_metric = 'maxbooster_dependency_breaker_state{dependency="s3"}'
    target = 1

    @staticmethod
    def address(stack, _user):
        """The same."""
        return "S3_ENDPOINT", stack.env["S3_ENDPOINT"]

    def needs(self):
        """A request that cannot do without it."""
        return self.api.ask("POST", "/api/audio/complete-upload", self.user.client.token,
                            {"key": self.user.pending["key"]})

    def others(self):
        """What does without it."""
        return [("/api/system/health", None), ("/api/auth/me", self.user.client.token)]


def user_with_a_neighbour(private):
    """An account with an upload that was begun, and one on another shard."""
    account = private.user()
    account.pending = audio.begin_upload(account.client, "pending.mp3", b"x").json
    account.neighbour = wait_until(
        lambda: (other := private.user()) and private.shard_of(other.id) != private.shard_of(account.id)
        and other, 30, "a user of another shard")
    return account


@contextlib.contextmanager
def behind_a_link(private, kind, **more):
    """One dependency behind its link."""
    if private.phase != 0:
        pytest.skip("a cluster and replicas tell addresses of their own: test_redis.py, test_pg_replicas.py")
    user = user_with_a_neighbour(private)
    link = SlowLink(kind.port_of(private, user))
    found = kind(private, user, link, kind.settings(private, user, link.port))
    settings = LIMITS | found.values | more
    with contextlib.closing(link), api_instance(private, "matrix", PROCESSES, **settings) as api:
        found.api = api
        assert all_well(found)
        yield found


KINDS = {"params": [Redis, Database, Storage], "ids": lambda c: c.check}


@pytest.fixture(**KINDS)
def case(request, private):
    """An instance that finds everything well."""
    with behind_a_link(private, request.param) as found:
        yield found


@pytest.fixture(**KINDS)
def narrow(request, private):
    """An instance that works on as few requests at once as may be: any is slower than it tolerates."""
    with behind_a_link(private, request.param, LOAD_TOLERANCE_PERCENT=1, LOAD_CONCURRENCY_MIN=AT_ONCE,
                       REDIS_TIMEOUT_MS=2000, DB_STATEMENT_TIMEOUT_MS=2000, BULKHEAD_WAIT_MS=1000) as found:
        def is_narrow():
            with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
                collections.deque(pool.map(lambda _: found.api.ask("GET", "/api/auth/me", user.client.token),
                                           range(10 * THREADS)), 0)
            limits = [v for k, v in found.api.metrics().items() if k.startswith("maxbooster_concurrency_limit")]
            return set(limits) == {AT_ONCE}
        user = found.user.neighbour
        wait_until(is_narrow, 20, "the limit to shrink", every=0)
        yield found


def all_well(case):
    """Is all served, and does nobody tell of trouble?"""
    return (case.needs()[0] == case.good and set(case.without()) == {200} and case.breaker() == CLOSED
            and case.api.status()["status"] == "ok")


def told_down(case):
    """Wait until readiness, metrics and the layer say that it is away; others are not blamed."""
    def told():
        found = case.api.status()
        return found["checks"][case.check]["status"] == "down" and found
    checks = wait_until(told, 10, f"readiness to see {case.check} down")["checks"]
    blamed = {name for name, check in checks.items() if check["status"] == "down"}
    assert blamed <= ({"redis", "queue"} if case.check == "redis" else {case.check}), checks
    assert case.api.metrics()['maxbooster_layer_active{layer="dependency"}'] == 1


def test_what_is_down_is_refused_told_and_used_again(case):
    case.link.down()

    def left_alone():
        status, document = case.needs()
        assert status == 503, document
        assert document["code"] in ("dependency_unavailable", "write_unknown"), document
        return case.breaker() == OPEN
    wait_until(left_alone, 20, "the breaker to open")
    told_down(case)
    assert case.api.metrics()["maxbooster_dependency_unavailable_total"] > 0
    assert set(case.without()) == {200}
    case.link.up()
    wait_until(lambda: all_well(case), 20, f"{case.check} to be used again")


def test_what_is_slow_is_waited_for_and_blamed_for_nothing(case):
    before = case.waited_us()
    case.link.delay_s = SLOW_S
    status, document = case.needs()
    assert status == case.good, document
    told = wait_until(lambda: (s := case.api.status())["checks"][case.check]["latencyMs"] >= 2000 * SLOW_S and s,
                      10, "readiness to tell the latency")
    assert case.waited_us() - before >= 2e6 * SLOW_S
    assert (told["status"], case.breaker()) == ("ok", CLOSED), told
    assert set(case.without()) == {200}
    case.link.delay_s = 0
    assert all_well(case)


def test_what_hangs_takes_no_thread_and_is_probed_by_one_of_all_processes(case):
    """Twice as many requests as there are threads, again and again: what does without is served, and
    once the breaker is open there is at most one call at a time: the probe."""
    threads = PROCESSES * THREADS
    with concurrent.futures.ThreadPoolExecutor(2 * threads) as pool:
        def hammer():
            hanging = [pool.submit(lambda: case.needs()[0]) for _ in range(2 * threads)]
            assert set(case.without()) == {200}
            return collections.Counter(f.result() for f in hanging)
        case.link.is_silent = True
        wait_until(lambda: set(hammer()) <= {503} and case.breaker() != CLOSED and case.link.n_open <= 1,
                   30, "the breaker to open")
        told_down(case)
        case.link.cut()  # kept connections of before would count, though nobody uses them
        wait_until(lambda: case.link.n_open == 0, 10, "the old connections to be gone", every=0.01)
        case.link.mark()
        probes = case.link.n_accepted + 3
        wait_until(lambda: set(hammer()) == {503} and case.link.n_accepted >= probes, 30, "three probes", every=0)
        assert case.link.most_open <= 1
        assert case.breaker() in (OPEN, HALF_OPEN)
    case.link.is_silent = False
    case.link.cut()
    wait_until(lambda: all_well(case), 20, f"{case.check} to be used again")


def test_what_hangs_takes_no_turn_from_what_does_without(narrow):
    """All turns are taken by requests that hang; others are served while those still do."""
    served = 0
    narrow.link.is_silent = True
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        hanging = [pool.submit(narrow.needs) for _ in range(AT_ONCE)]
        while not any(f.done() for f in hanging):
            served += set(narrow.without()) == {200}
        assert {f.result()[0] for f in hanging} <= {503, 504}
    assert served > 0
    narrow.link.is_silent = False
    narrow.link.cut()
    wait_until(lambda: all_well(narrow), 20, f"{narrow.check} to be used again")


def connections_open(api):
    """To all databases together."""
    return sum(v for k, v in api.metrics().items() if k.startswith("maxbooster_db_connections_open{"))


def test_connections_are_there_before_the_first_request(private):
    """Both processes together open what may be in use at once; a health check asks no database."""
    with api_instance(private, "warm", 2, DB_POOL_SIZE=20, DB_MAX_CONNECTIONS=100, POOL_UTILIZATION_THRESHOLD=85) as api:
        wait_until(lambda: connections_open(api) >= 17, 10, "the connections")


def test_a_start_does_not_wait_for_a_database_that_hangs(private):
    """What does without it is served soon."""
    if private.phase != 0:
        pytest.skip("replicas tell addresses of their own")
    user = private.user()
    link = SlowLink(Database.port_of(private, user))
    link.is_silent = True
    with contextlib.closing(link), api_instance(private, "hangs", 1, **LIMITS,
                                                **Database.settings(private, user, link.port)) as api:
        assert api.ask("GET", "/api/auth/me", user.client.token)[0] == 503
        link.is_silent = False
        link.cut()
        wait_until(lambda: api.ask("GET", "/api/auth/me", user.client.token)[0] == 200, 20, "the database to be used")


def test_further_tries_of_s3_keep_to_their_budget(private):
    """The breaker is out of the way here. A process has 30 further tries saved up, and each call that
    fails earns it a tenth of one."""
    user, link, calls = user_with_a_neighbour(private), SlowLink(private.port + Storage.target), 12
    settings = LIMITS | {"S3_RETRIES": 10, "S3_BACKOFF_MS": 1, "DEPEND_BREAKER_FAILURES": 1000}
    with contextlib.closing(link), api_instance(private, "budget", 1, **settings,
                                                **Storage.settings(private, user, link.port)) as api:
        link.down()
        for _ in range(calls):
            status, document = api.ask("POST", "/api/audio/complete-upload", user.client.token,
                                       {"key": user.pending["key"]})
            assert (status, document["code"]) == (503, "dependency_unavailable")
        found = api.metrics()
        tries = found["maxbooster_retries_total"]
        assert 30 <= tries <= 30 + (calls + tries) / 10 + 1
        assert found["maxbooster_retries_refused_total"] >= calls - 4
        link.up()
        assert api.ask("POST", "/api/audio/complete-upload", user.client.token, {"key": user.pending["key"]})[0] == 409


def test_a_lease_is_told_while_it_is_held(private):
    """A statement waits for a lock; the connection is in use as long."""
    user = private.user()
    used = "maxbooster_db_connections_used"
    with contextlib.closing(psycopg2.connect(private.shard_urls()[private.shard_of(user.id)])) as locker:
        locker.cursor().execute("LOCK TABLE users IN ACCESS EXCLUSIVE MODE")
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(user.client.get, "/api/auth/me")
            wait_until(lambda: any(v > 0 for k, v in private.metrics().items() if k.startswith(used)), 4,
                       "the lease to be told")
            locker.rollback()
            assert waiting.result().status == 200
    wait_until(lambda: not any(v > 0 for k, v in private.metrics().items() if k.startswith(used)), 10,
               "all leases to be given back")


# --- SMTP: mails are a worker's. ---


@pytest.fixture
def post(private, tmp_path):
    """A worker for mails only, which reaches its mail server by a link."""
    with contextlib.closing(bound_socket()) as one, contextlib.closing(bound_socket()) as two:
        mail_port, door = one.getsockname()[1], two.getsockname()[1]
    server = mail.MailServer("127.0.0.1", mail_port, tmp_path)
    link = SlowLink(mail_port)
    env = {"CONFIG_FILE": str(private.folder / "stack.env"), "PATH": os.environ["PATH"],
           "SMTP_URL": f"smtp://127.0.0.1:{link.port}", "METRICS_PORT": str(door), "WORKER_THREADS": "8",
           "JOB_EMAIL_SEND_TIMEOUT_S": "1", "JOB_EMAIL_SEND_RETRIES": "20", "JOB_BACKOFF_MS": "100"}
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.closing(link))
        stack.callback(server.stop)
        stack.enter_context(private.stopped("worker"))
        worker = subprocess.Popen([str(private.folder / "bin/maxbooster-worker"), "--queues", "email"], env=env,
                                  stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
        stack.callback(worker.wait, 30)
        stack.callback(worker.terminate)
        found = types.SimpleNamespace(link=link, private=private, box=mail.Mailbox(tmp_path), door=door)
        wait_until(lambda: smtp_metrics(found), 10, "the worker")
        yield found


def smtp_metrics(post):
    """{name with labels: value} of the worker."""
    with contextlib.suppress(OSError):
        return fired.samples(Client(f"http://127.0.0.1:{post.door}").get("/metrics", checked=False).text)
    return None


def smtp_breaker(post):
    """The state of the worker's breaker."""
    return smtp_metrics(post)['maxbooster_dependency_breaker_state{dependency="smtp"}']


def attempts(post, ending):
    """Attempts at mails that ended so."""
    return smtp_metrics(post).get(f'maxbooster_job_attempts_total{{type="email-send",ending="{ending}"}}', 0)


def order_mails(post, count):
    """Mails to new accounts; their addresses."""
    found = [post.private.user(login=False).email for _ in range(count)]
    for address in found:
        post.private.client().post("/api/auth/password/forgot", {"email": address}, expect=202)
    assert post.private.status().json()["status"] == "ok"
    return found


def all_arrive(post, addresses):
    """Wait for all of them; then nothing is wrong any more."""
    for address in addresses:
        post.box.wait_for(address, "password")
    wait_until(lambda: smtp_breaker(post) == CLOSED and attempts(post, "completed") >= len(addresses), 10,
               "the worker to tell so")


def test_mails_wait_for_a_server_that_is_down(post):
    post.link.down()
    addresses = order_mails(post, 6)
    wait_until(lambda: smtp_breaker(post) == OPEN, 20, "the breaker to open")
    post.private.client().get("/api/system/status", expect=200)
    post.link.up()
    all_arrive(post, addresses)


def test_a_slow_mail_server_is_waited_for(post):
    post.link.delay_s = SLOW_S
    all_arrive(post, order_mails(post, 3))
    assert smtp_metrics(post)['maxbooster_job_duration_seconds_sum{type="email-send"}'] >= 3 * 2 * SLOW_S


def test_a_mail_server_that_hangs_is_probed_by_one_mail_at_a_time(post):
    post.link.is_silent = True
    addresses = order_mails(post, 8)
    wait_until(lambda: smtp_breaker(post) != CLOSED and post.link.n_open <= 1, 30, "the breaker to open")
    post.link.mark()
    probes = post.link.n_accepted + 2
    wait_until(lambda: post.link.n_accepted >= probes, 30, "two probes")
    assert post.link.most_open <= 1
    post.private.client().get("/api/system/status", expect=200)
    post.link.is_silent = False
    post.link.cut()
    all_arrive(post, addresses)
