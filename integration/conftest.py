"""Fixtures of all integration tests, and the check of the whole run against the contract.

One process starts the mail server and judges the record at the end: the only one, or with -n
the one that the workers report to. Tests on a private stack carry the xdist group "private" or
"guards", so that one worker runs them one after the other; each worker has a stack of its own."""
import contextlib
import os
import pathlib
import subprocess
import sys
import urllib.parse

import pytest

from harness import fired, mail, medialab, pglab, queuelab, record, s3lab, stack as stacks

ROOT = pathlib.Path(__file__).resolve().parent.parent
MAIL_SERVER = pytest.StashKey()
# Fleets of phases 1 and 3 want more of a machine than the rest: make test-fleet.
collect_ignore = [] if os.environ.get("MB_FLEET") else ["test_topology.py"]
ALONE = {"test_cron", "test_media", "test_migrations", "test_mix", "test_outbox", "test_pg",
         "test_pg_faults", "test_pg_map", "test_pg_replicas", "test_pg_scarcity", "test_pg_scatter",
         "test_promise", "test_queue", "test_queue_check", "test_redis", "test_reshard",
         "test_s3_signatures", "test_schema", "test_sessions", "test_smtp", "test_sweeps"}
# The longest rows of tests that wait for each other: they begin first.
ROWS = ("private", "guards")


def mail_folder():
    """Where mails of this run are kept."""
    return record.folder() / "mail"


def is_worker(config):
    """Is this one of xdist's workers?"""
    return hasattr(config, "workerinput")


def pytest_configure(config):
    """Before anything runs: an empty record and a mail server."""
    if is_worker(config) or config.option.collectonly:
        return
    record.clear()
    fired.clear()
    stack = stacks.Stack.from_environment()
    url = urllib.parse.urlsplit(stack.env.get("SMTP_URL", "") if stack else "")
    if url.port and url.hostname in ("127.0.0.1", "localhost"):
        config.stash[MAIL_SERVER] = mail.MailServer("127.0.0.1", url.port, mail_folder())


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Files with servers of their own stay on one worker; the longest rows begin."""
    for item in items:
        if item.path.stem in ALONE:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))

    def turn(item):
        groups = [mark.args[0] for mark in item.iter_markers("xdist_group")]
        return min((ROWS.index(g) for g in groups if g in ROWS), default=len(ROWS))
    items.sort(key=turn)


def is_whole_run(config):
    """Was the whole suite asked for?"""
    option = config.option
    folders = {pathlib.Path(str(a)).resolve() for a in config.args}
    return (not option.keyword and not option.markexpr and not option.collectonly
            and not getattr(option, "lf", False) and folders == {pathlib.Path(__file__).resolve().parent})


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session, exitstatus):
    """Judge the record of a whole run, when its fixtures are gone."""
    config = session.config
    if is_worker(config):
        return
    if MAIL_SERVER in config.stash:
        config.stash[MAIL_SERVER].stop()
    stacks.drop_private_stacks(stacks.Stack.from_environment())
    if exitstatus in (0, 1) and is_whole_run(config) and stacks.Stack.from_environment():
        stacks.Stack.from_environment().note_fired()
        judge(session, "contract", "tools/check_contract.py")
        judge(session, "what fired", "tools/check_fired.py")


def judge(session, title, program):
    """Have a program judge the record; what it says is part of the run's verdict."""
    done = subprocess.run([sys.executable, str(ROOT / program)], text=True, capture_output=True, check=False)
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    reporter.ensure_newline()
    reporter.write_sep("=", title)
    reporter.write_line(done.stdout.rstrip() + done.stderr.rstrip())
    if done.returncode != 0:
        session.exitstatus = 1


@pytest.fixture(scope="session")
def stack():
    """The stack under test."""
    found = stacks.Stack.from_environment()
    if found is None:
        pytest.exit(stacks.HOW_TO_RUN, returncode=2)
    found.wait_ready()
    return found


@pytest.fixture
def api(stack):
    """A client that is not logged in."""
    return stack.client()


@pytest.fixture
def user(stack):
    """A new account, logged in."""
    account = stack.user()
    yield account
    account.close()


@pytest.fixture
def other(stack):
    """Another new account, logged in."""
    account = stack.user(name="Somebody Else")
    yield account
    account.close()


@pytest.fixture
def client(user):
    """The new account's client."""
    return user.client


@pytest.fixture(scope="session")
def mailbox(stack):
    """What the stack has mailed in this run."""
    if not stack.env.get("SMTP_URL"):
        pytest.skip("the stack has no SMTP_URL")
    return mail.Mailbox(mail_folder())


@pytest.fixture(scope="session")
def admin(stack):
    """An administrator's client."""
    account = stack.user(name="Operator", login=False)
    stack.sql(stack.shard_of(account.id), "UPDATE users SET role = 'admin' WHERE id = %s",
              account.id)
    return account.second_client()


# PostgreSQL by itself, and processes that speak for lib/pg (harness/pglab.py).

@pytest.fixture(scope="module", name="server")
def _pg_server():
    """A server of the module's own."""
    with pglab.driver_server() as server:
        yield server


@pytest.fixture(name="shm")
def _pg_shm():
    """Where an instance's processes share what they know."""
    with pglab.shared_memory() as path:
        yield path


@pytest.fixture(name="driver")
def _pg_driver(server, shm):
    """Makes processes of that instance."""
    with pglab.drivers(server, shm) as make:
        yield make


# S3 and the media child by themselves.

@pytest.fixture(scope="module", name="gateway")
def _gateway(tmp_path_factory):
    """An S3 of the module's own (harness/s3lab.py)."""
    with contextlib.closing(s3lab.Gateway(tmp_path_factory.mktemp("s3"))) as gateway:
        yield gateway


@pytest.fixture(scope="session", name="media_programs")
def _media_programs():
    """They are built."""
    medialab.build()


@pytest.fixture(name="media")
def _media(tmp_path, media_programs):  # pylint: disable=unused-argument
    """The media child's driver."""
    return medialab.Media(tmp_path)


# The job queue by itself (harness/queuelab.py).

@pytest.fixture(scope="module", name="shared_lab")
def _shared_lab(tmp_path_factory):
    """Redis, PostgreSQL and a mail server of the module's own, for workers and schedulers."""
    lab = queuelab.Lab(tmp_path_factory.mktemp("lab"), queuelab.build(*queuelab.PROGRAMS))
    yield lab
    lab.close()


@pytest.fixture(name="lab")
def _lab(shared_lab):
    """The same, empty and with nobody at work."""
    yield shared_lab
    shared_lab.reset()


@pytest.fixture(scope="session")
def private(stack):
    """A stack of its own with low limits, for tests that exhaust or break it."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0")
    with stacks.private_stack(
            stack, worker, SHARD_COUNT=2, RATE_LIMIT_MAX=200,
            RATE_LIMIT_WINDOW_MS=10000,
            RATE_LIMIT_CRITICAL_MAX=20, MAX_SESSIONS=2000, JOB_LEASE_MS=3000, JOB_HEARTBEAT_MS=300,
            # nothing is shed because the tests themselves load the machine; test_guards.py changes that
            QUEUE_DELAY_TARGET_MS=0, LOAD_TOLERANCE_PERCENT=0,
            JOB_BACKOFF_MS=200, SESSION_TTL=86400, WORKER_THREADS=4, JOB_AUDIO_ANALYSE_CONCURRENCY=1,
            JOB_AUDIO_MIX_TIMEOUT_S=3) as found:
        yield found


@pytest.fixture
def tell(private):
    """Change the configuration of the running fleet; what was changed is taken back."""
    names = set()

    def change(**values):
        names.update(values)
        done = private.ctl("config", "set", *(f"{k}={v}" for k, v in values.items()))
        assert done.returncode == 0, done.stdout + done.stderr
    yield change
    if names:
        done = private.ctl("config", "set", *(f"{name}=" for name in names))
        assert done.returncode == 0, done.stdout + done.stderr
