"""Configuration of a running fleet: told by the operator, taken on by every process, lost by nobody."""
import json
import re
import signal

import pytest

from harness.asking import Asking, not_200
from harness.waits import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("guards")]


@pytest.fixture
def fleet(private):
    """The private stack; what was told is taken back."""
    yield private
    private.ctl("config", "set", "RATE_LIMIT_MAX=", "LOG_LEVEL=", "MAX_FILE_SIZE=")


def epochs(stack):
    """Epochs of all API processes, by the metrics."""
    return [int(v) for values in stack.metrics_of_instances() for k, v in values.items()
            if k.startswith("maxbooster_config_epoch{")]


def told(stack, *values):
    """config set; the new epoch."""
    done = stack.ctl("config", "set", *values)
    assert done.returncode == 0, done.stdout + done.stderr
    return int(re.search(r"^epoch (\d+): (\d+) of \2 processes follow", done.stdout, re.M).group(1))


def reload_lines(stack, epoch):
    """The log lines of programs that took an epoch on."""
    found = []
    for log in stack.log_files():
        if re.match(r"(api|worker|scheduler)", log.name):
            found += [json.loads(line) for line in log.read_text().splitlines()
                      if '"config.reload"' in line]
    return [line for line in found if line["epoch"] == epoch]


def test_a_change_reaches_every_process_within_two_seconds_and_fails_no_request(fleet):
    user = fleet.user()
    with Asking([lambda: not_200(user.second_client().get("/api/system/health"))] * 2) as asking:
        epoch = told(fleet, "RATE_LIMIT_MAX=150", "LOG_LEVEL=debug")
        wait_until(lambda: epochs(fleet) == [epoch] * len(fleet.api_workers()), 2,
                   "every process to report the epoch")
        for _ in range(8):
            assert fleet.client().get("/api/system/status").json["configEpoch"] == epoch
            policy = user.second_client().get("/api/auth/me").headers["RateLimit-Policy"]
            assert "q=150;" in policy
    assert asking.count and not asking.bad, asking.bad[:3]
    lines = reload_lines(fleet, epoch)
    assert {line["program"] for line in lines} == {"api", "worker", "scheduler"}
    for line in lines:
        assert re.fullmatch(r"[\w.-]+@[\w.-]+", line["by"]), line
        assert "RATE_LIMIT_MAX 200 -> 150" in line["what"]
        assert 'LOG_LEVEL "info" -> "debug"' in line["what"]


def test_a_bad_value_changes_nothing_and_says_what_is_allowed(fleet):
    before = epochs(fleet)
    done = fleet.ctl("config", "set", "MAX_FILE_SIZE=2000000", "RATE_LIMIT_MAX=0")
    assert done.returncode == 1
    assert 'RATE_LIMIT_MAX is "0": allowed is a whole number from 1 to 1000000000' in done.stderr
    for words, sentence in [(["SHARD_COUNT=8"], "takes effect only with a restart"),
                            (["REDIS_URL=redis://x"], "takes effect only with a restart"),
                            (["RATE_LIMIT_MAXI=3"], "do you mean RATE_LIMIT_MAX?")]:
        done = fleet.ctl("config", "set", *words)
        assert done.returncode == 1 and sentence in done.stderr, done.stderr
    assert epochs(fleet) == before
    assert "MAX_FILE_SIZE=2000000" not in fleet.ctl("config", "show").stdout


def test_a_process_that_comes_later_runs_with_what_was_told(fleet):
    epoch, processes = told(fleet, "MAX_FILE_SIZE=3000000"), len(fleet.api_workers())
    dead = fleet.kill_api_process()
    wait_until(lambda: dead not in {p.pid for p in fleet.api_workers()}
               and epochs(fleet) == [epoch] * processes, 10,
               "a new process at the epoch")
    assert "MAX_FILE_SIZE=3000000\n" in fleet.ctl("config", "show").stdout


def test_what_redis_loses_the_fleet_tells_it_again(fleet):
    epoch = told(fleet, "RATE_LIMIT_MAX=160")
    fleet.redis().delete("config:{fleet}")
    wait_until(lambda: fleet.redis().hget("config:{fleet}", "RATE_LIMIT_MAX") == b"160", 5,
               "the hash to be there again")
    assert set(epochs(fleet)) == {epoch}
    assert told(fleet, "RATE_LIMIT_MAX=170") > epoch


def test_without_redis_everybody_keeps_what_was_told(fleet):
    epoch = told(fleet, "RATE_LIMIT_MAX=180")
    with fleet.stopped("redis"):
        assert fleet.ctl("config", "set", "RATE_LIMIT_MAX=190").returncode == 1
        assert set(epochs(fleet)) == {epoch}
    fleet.wait_ready()
    wait_until(lambda: fleet.ctl("config", "set", "RATE_LIMIT_MAX=190").returncode == 0, 10,
               "the fleet to be told again")
    assert min(epochs(fleet)) > epoch


def test_reload_makes_everybody_read_his_file_again(fleet):
    file = fleet.folder / "stack.env"
    text = file.read_text()
    try:
        file.write_text(re.sub(r"^MAX_FILE_SIZE=.*$", "MAX_FILE_SIZE=4000000", text, flags=re.M))
        done = fleet.ctl("config", "reload")
        assert done.returncode == 0, done.stderr
        epoch = int(re.match(r"epoch (\d+):", done.stdout).group(1))
        assert all("MAX_FILE_SIZE" in line["what"] for line in reload_lines(fleet, epoch))
    finally:
        file.write_text(text)
        fleet.ctl("config", "reload")


def test_sighup_is_for_one_process_and_keeps_what_the_fleet_was_told(fleet):
    epoch = told(fleet, "RATE_LIMIT_MAX=175")
    one = fleet.api_workers()[0].pid
    fleet.kill(one, signal.SIGHUP)
    lines = wait_until(lambda: [line for line in reload_lines(fleet, epoch)
                                if line["by"] == "SIGHUP"], 5, "the log line of the reload")
    assert [line["pid"] for line in lines] == [one]
    assert lines[0]["what"] == ""
    policy = fleet.user().client.get("/api/auth/me").headers["RateLimit-Policy"]
    assert "q=175;" in policy


def test_the_members_of_the_fleet_are_told(fleet):
    told(fleet, "RATE_LIMIT_MAX=200")
    lines = fleet.ctl("config", "members").stdout.splitlines()
    programs = [re.match(r"epoch \d+ [^/]+/(\w+)/", line).group(1) for line in lines]
    assert {"api", "worker", "scheduler", "edge"} == set(programs)
