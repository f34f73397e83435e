"""What the verdict is computed with: statistics, the ledger, targets and the seed."""
import json
import os
import random
import sys
import uuid

import pytest

HERE = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, HERE)

import ledger  # noqa: E402  (beside this file, as all below)
import plots  # noqa: E402
import slo  # noqa: E402
import stats  # noqa: E402

LOADTEST = os.path.dirname(HERE)


def samples_of(rows):
    """Samples from (at s, ms, good)."""
    samples = stats.Samples(1000000.0)
    for at, ms, good in rows:
        assert samples.add_line(f"{1000000 + 1000 * at:.0f} 0 {ms} me {200 if good else 503} {int(good)}"
                                f"{'' if good else ' :overloaded'}\n")
    return samples


def test_a_quantile_is_the_nearest_rank():
    assert stats.quantile([1, 2, 3, 4], 0.5) == 2
    assert stats.quantile(list(range(1, 101)), 0.99) == 99
    assert stats.quantile(list(range(1, 102)), 0.99) == 100
    assert stats.quantile([7], 0.99) == 7
    with pytest.raises(ValueError):
        stats.quantile([], 0.5)


@pytest.mark.parametrize("good, n, low, high", [
    # E. B. Wilson's interval as statsmodels' proportion_confint(method="wilson") gives it
    (95, 100, 0.888250, 0.978457), (0, 10, 0.0, 0.277533), (10, 10, 0.722467, 1.0),
    (29997, 30000, 0.999706, 0.999966)])
def test_wilson_interval(good, n, low, high):
    found = stats.wilson(good, n)
    assert found == pytest.approx((low, high), abs=1e-5)


def test_wilson_of_nothing_says_nothing():
    assert stats.wilson(0, 0) == (0.0, 1.0)


def test_order_statistics_cover_the_true_quantile():
    """95 % intervals of the p99 of an exponential distribution hold it about 95 times in 100."""
    rng, held = random.Random(5), 0
    true = 4.605170  # -ln 0.01
    for _ in range(400):
        low, high = stats.quantile_interval(sorted(rng.expovariate(1) for _ in range(2000)), 0.99)
        held += low <= true <= high
    assert 365 <= held <= 400


def test_blocks_see_bunches_that_wilson_does_not():
    """All failures in one block of forty: an interval that knows of time is much wider."""
    rows = [(at / 10, 5.0, not 100 <= at < 200) for at in range(4000)]
    told = stats.figures(samples_of(rows))["intervals"]["availability"]
    narrow, wide = told["wilson95"], told["blocks95"]
    assert wide[1] - wide[0] > 3 * (narrow[1] - narrow[0])


def test_figures_of_a_run():
    rows = [(i / 100, float(i % 100 + 1), i != 7) for i in range(10000)]
    told = stats.figures(samples_of(rows))
    assert told["requests"] == 10000 and told["failed"] == 1
    assert told["avgMs"] == pytest.approx(50.5) and told["p99Ms"] == 99 and told["maxMs"] == 100
    assert told["availability"] == 0.9999
    low, high = told["intervals"]["p99Ms"]["blocks95"]
    assert low <= 99 * stats.GROWTH and high >= 99


def test_a_line_that_is_no_sample_is_none():
    samples = stats.Samples()
    for line in ("", "level=warning msg=x\n", "1 2 3 me x 1\n", "nonsense of some six words here\n"):
        assert not samples.add_line(line)
    assert len(samples) == 0


def test_why_a_request_failed_is_kept():
    samples = samples_of([(0, 1, True), (1, 1, False)])
    assert samples.why == {1: "me 503 :overloaded"} and samples.bad() == [1]


def test_buckets_like_the_server_has_them():
    assert stats.cumulative([0.001, 0.0011, 0.002, 5], [0.001, 0.002]) == [1, 2, 1]


# The ledger

def test_a_failure_is_charged_to_the_fault_whose_time_it_was():
    samples = samples_of([(i / 10, 2.0, i not in (55, 56, 300)) for i in range(1000)])
    rows = ledger.rows([ledger.Window("kill", 5, 10, 0.5), ledger.Window("restart", 40, 50, 0)], samples, 0.99)
    kill, restart, rest = rows
    assert (kill["requests"], kill["failed"], kill["budget"]) == (51, 2, pytest.approx(5))
    assert kill["good"]
    assert (restart["failed"], restart["good"]) == (0, True)
    assert (rest["failed"], rest["budget"]) == (1, pytest.approx(5))
    assert sum(r["requests"] for r in rows) == 1000


def test_of_two_faults_that_overlap_the_later_one_pays():
    samples = samples_of([(7, 2.0, False), (12, 2.0, True)])
    windows = [ledger.Window("kill", 0, 10, 0.5), ledger.Window("pause", 5, 11, 0.5)]
    assert [r["failed"] for r in ledger.rows(windows, samples, 0.99)] == [0, 1, 0]


def test_what_is_to_cost_nothing_may_cost_nothing():
    samples = samples_of([(i / 10, 2.0, i != 450) for i in range(1000)])
    restart = ledger.rows([ledger.Window("restart", 40, 50, 0)], samples, 0.99)[0]
    assert restart["failed"] == 1 and not restart["good"]


def test_a_fault_that_could_not_be_made_is_not_good():
    samples = samples_of([(1, 1, True)])
    window = ledger.Window("kill", 0, 2, 0.5, error="there is no replica")
    assert not ledger.rows([window], samples, 0.99)[0]["good"]


@pytest.mark.parametrize("plan, word", [
    ([{"do": "a", "at": 0.5, "share": 0.6}, {"do": "b", "at": 0.6, "share": 0.5}], "1.10 of the budget"),
    ([{"do": "a", "at": 0.5, "share": 0}, {"do": "b", "at": 0.4, "share": 0}], "does not come after"),
    ([{"do": "a", "at": 1.5, "share": 0}], "between 0 and 1")])
def test_a_plan_of_faults_that_cannot_be(plan, word):
    assert word in ledger.check(plan)


# The files

def read(name):
    return slo.read(os.path.join(LOADTEST, name))


def test_the_files_fit_together():
    targets, mix = read("slo.json"), read("scenarios/mix.json")
    for phase in targets["phases"]:
        target = slo.target_of(targets, phase)
        browse, logins, uploads = slo.rates(target, mix)
        assert browse + logins + 6 * uploads >= target["ratePerS"] - 1e-9
        assert logins >= 0.2 and uploads >= 0.1
        assert ledger.check(read("faults.json")[phase]) is None
    for profile in read("scenarios/profiles.json").values():
        if isinstance(profile, dict):
            assert sum(s[0] for s in profile["stages"]) == pytest.approx(1)
            for one, other in zip(profile["stages"], profile["stages"][1:]):
                assert one[2] == other[1], "a stage begins where the one before ended"


def test_the_targets_are_those_of_the_phases():
    rows = read("slo.json")["phases"]
    told = {p: (r["avgMs"], r["p99Ms"], r["availability"]) for p, r in rows.items()}
    assert told == {"0": (200, 1000, 0.99), "1": (250, 1500, 0.995), "3": (500, 3000, 0.9999)}
    assert (rows["0"]["users"], rows["0"]["ratePerS"], rows["0"]["isInFull"]) == (10000, 980, True)
    assert not rows["1"]["isInFull"] and not rows["3"]["isInFull"]


def test_targets_that_cannot_be():
    targets = read("slo.json")
    with pytest.raises(slo.Wrong, match="PHASE=7"):
        slo.target_of(targets, 7)
    targets["phases"]["0"]["avgMs"] = "200"
    with pytest.raises(slo.Wrong, match="avgMs"):
        slo.target_of(targets, 0)
    low = {**read("slo.json")["phases"]["0"], "ratePerS": 500}
    with pytest.raises(slo.Wrong, match="980 requests"):
        slo.rates(low, read("scenarios/mix.json"))


def run_of(**more):
    return {"avgMs": 5, "p99Ms": 20, "availability": 1, "requests": 588000, "seconds": 600, "ratePerS": 980,
            "droppedIterations": 0, "generatorCoresMax": 0.5, "latenessP99Ms": 2, "lost": 0,
            "jobs": {"promised": 10, "completed": 10}, "ledger": [], **more}


@pytest.mark.parametrize("more, missed", [
    ({}, set()), ({"avgMs": 201}, {"average"}), ({"p99Ms": 1001}, {"p99"}),
    ({"availability": 0.989}, {"availability"}), ({"droppedIterations": 1}, {"dropped iterations"}),
    ({"seconds": 599}, {"seconds"}), ({"ratePerS": 970}, {"rate"}), ({"generatorCoresMax": 0.71}, {"generator's CPU, busiest 5 s"}),
    ({"lost": 1}, {"samples that are missing"}),
    ({"jobs": {"promised": 10, "completed": 9}}, {"promised jobs that did not complete"}),
    ({"ledger": [{"good": False}]}, {"faults that overspent their budget"})])
def test_each_bound_is_judged(more, missed):
    targets = read("slo.json")
    rows = slo.judge(targets, targets["phases"]["0"], run_of(**more))
    assert {r["name"] for r in rows if not r["good"]} == missed


def test_four_nines_are_claimed_from_thirty_thousand_requests_only():
    targets = read("slo.json")
    assert slo.needed_requests(targets, 0.9999) == 30000
    rows = slo.judge(targets, targets["phases"]["3"], run_of(requests=29999, seconds=600))
    assert [r["good"] for r in rows if r["name"].startswith("requests")] == [False]


# The seed

def test_ids_of_the_seed_have_their_form_and_place():
    pytest.importorskip("psycopg2")
    pytest.importorskip("redis")
    import seed
    people = seed.artists(50)
    assert [a.id for a in people] == [a.id for a in seed.artists(50)]
    assert len({a.id for a in people}) == 50
    for artist in people:
        assert uuid.UUID(artist.id).version == 7
        for owned in artist.tracks + artist.jobs:
            assert owned[14] == "8" and owned[19] in "89ab"
            assert bytes.fromhex(owned[:8]) == artist.place
        assert artist.tracks == sorted(artist.tracks), "ids of one owner sort by time"
        assert len(artist.session.token) == 64 and artist.for_k6()[0].split(" ")[5:] == artist.tracks[:-5:-1]


def test_figures_for_a_person():
    assert [plots.number(n) for n in (None, 0, 7, 12345, 0.012345, 1.5, 99.5, 1234.5)] == \
        ["–", "0", "7", "12,345", "0.0123", "1.50", "99.5", "1,234"]
    assert json.dumps(plots.esc("<b>")) == '"&lt;b&gt;"'
