"""maxboosterctl capacity on costs that are given: it needs no stack to be up, only the tool."""
import copy
import json

import pytest

COSTS = {
    "perRequest": {"proxyMs": 0.05, "apiMs": 0.1, "postgresMs": 0.06, "redisMs": 0.03, "s3Ms": 0,
                   "workerMs": 0},
    "perUpload": {"proxyMs": 20, "apiMs": 30, "postgresMs": 5, "redisMs": 5, "s3Ms": 40,
                  "workerMs": 2500, "bytes": 20e6},
    "instances": [{"n": n, "requestsPerCpuS": 10000 / (1 + 0.01 * (n - 1)), "heldOut": n in (3, 5)}
                  for n in range(1, 7)]}


def capacity(stack, folder, costs, *words):
    """The finished process."""
    path = folder / "costs.json"
    path.write_text(costs if isinstance(costs, str) else json.dumps(costs))
    return stack.ctl("capacity", "--costs", str(path), *words)


def test_needs_are_told_for_each_number_of_users(stack, tmp_path):
    told = json.loads(capacity(stack, tmp_path, COSTS, "--json").stdout)
    assert [n["users"] for n in told["needs"]] == [10 ** e for e in range(4, 9)]
    assert told["usl"]["sigma"] == pytest.approx(0.01, abs=1e-4)
    assert told["usl"]["heldOutError"] < 0.001
    assert told["needs"][0]["requestsPerS"] == pytest.approx(980, abs=1)
    assert told["needs"][0]["machines"] == 1
    text = capacity(stack, tmp_path, COSTS).stdout
    assert "500-1,000 pods" in text and "100000000" in text


def test_more_tracks_take_more_workers(stack, tmp_path):
    few, many = (json.loads(capacity(stack, tmp_path, COSTS, "--json", "--uploads", n).stdout)
                 for n in ("0", "1000"))
    assert few["needs"][4]["workers"] == 2 < many["needs"][4]["workers"]


def test_a_law_that_misses_what_was_held_out_is_not_carried_on(stack, tmp_path):
    costs = copy.deepcopy(COSTS)
    costs["instances"][2]["requestsPerCpuS"] *= 1.2
    done = capacity(stack, tmp_path, costs)
    assert done.returncode == 1 and "10 at most" in done.stderr and not done.stdout


@pytest.mark.parametrize("costs", ["", "[]", "{}", json.dumps({**COSTS, "instances": []}),
                                   json.dumps({**COSTS, "instances": COSTS["instances"][:2]}),
                                   json.dumps({**COSTS, "perRequest": {"apiMs": -1}})])
def test_costs_that_are_none_are_refused(stack, tmp_path, costs):
    done = capacity(stack, tmp_path, costs)
    assert done.returncode == 1 and done.stderr and not done.stdout
