"""A rolling restart: new API processes on new sockets, and nobody who asks meanwhile notices."""
import contextlib
import http.client
import itertools
import json
import os
import re

import pytest

from harness.asking import Asking

pytestmark = [pytest.mark.slow, pytest.mark.fault, pytest.mark.xdist_group("private")]


@pytest.fixture(name="fleet")
def _fleet(private):
    """The private stack; its usual pool serves again afterwards."""
    yield private
    if "api" not in private.programs():
        private.make("restart")
    private.wait_ready()


def turn_of(fleet, account, is_reader):
    """One request, on a connection of its own, so that it is the server's word alone whether it was lost."""
    headers = {"Authorization": f"Bearer {account.client.token}", "Connection": "close",
               "Content-Type": "application/json"}
    numbers = itertools.count()

    def ask():
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=30)) as connection:
            if is_reader:
                connection.request("GET", "/api/auth/me", headers=headers)
            else:
                connection.request("PATCH", "/api/auth/me", json.dumps({"name": f"Name {next(numbers)}"}), headers)
            reply = connection.getresponse()
            answer = reply.status, reply.read()
            return None if answer[0] == 200 else answer
    return ask


def asking_on(fleet, accounts):
    """Each second account reads, the others write."""
    return Asking([turn_of(fleet, account, n % 2 == 0) for n, account in enumerate(accounts)], pause_s=0.05)


@pytest.fixture(name="accounts")
def _accounts(fleet):
    with contextlib.ExitStack() as stack:
        made = [fleet.user() for _ in range(4)]
        for account in made:
            stack.callback(account.close)
        yield made


def pids(fleet):
    """The API's processes."""
    return {p.pid for p in fleet.api_workers()}


def test_a_rolling_restart_loses_no_request(fleet, accounts):
    with asking_on(fleet, accounts) as asking:
        for pool in ("api-b", "api"):
            asking.go_on(20)
            before = pids(fleet)
            said = fleet.make("restart")
            assert f"{pool} serves" in said
            assert not before & pids(fleet)
            assert {re.sub(r"-\d+$", "", name) for name in fleet.programs_of("api")} == {pool}
            asking.go_on(20)
    assert not asking.bad, asking.bad[:3]


def test_what_does_not_get_ready_never_serves(fleet, accounts, tmp_path):
    (tmp_path / "bin").mkdir()
    broken = tmp_path / "bin/maxbooster-api"
    broken.write_text("#!/bin/sh\nexec sleep 1000\n")
    broken.chmod(0o755)
    before, program = pids(fleet), (fleet.folder / "bin/maxbooster-api").read_bytes()
    with asking_on(fleet, accounts) as asking:
        done = fleet.run("restart", programs=tmp_path)
        assert done.returncode == 1
        assert "is not ready" in done.stderr and "the old one serves on" in done.stderr
        asking.go_on(20)
        assert pids(fleet) == before
    assert not asking.bad, asking.bad[:3]
    assert (fleet.folder / "bin/maxbooster-api").read_bytes() == program
    assert "api-b" not in fleet.programs()
    assert os.listdir(fleet.folder / "bin") == [n for n in os.listdir(fleet.folder / "bin")
                                                if not n.endswith(".before")]
