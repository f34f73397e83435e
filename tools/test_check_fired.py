"""tools/check_fired.py finds what is documented, and what of it has not fired."""
import check_fired

PAGE = """# Metrics
| metric | type | meaning |
|---|---|---|
| `maxbooster_a_total` | counter | One. |
| `maxbooster_layer_active{layer="memory"}` | gauge, level 3 | Two. |
| `maxbooster_seconds` | histogram | Three. |
"""
FIELDS = """# Log
| `not` | this |
## A request's line
`time`, `level` begin every line. Then:

| field | is |
|---|---|
| `requestId`, `traceparent` | the `client`'s |
| `status` | told |
## Another
| `nor` | this |
"""
ALL = {"maxbooster_a_total", 'maxbooster_layer_active{layer="memory"}', 'maxbooster_seconds_count{le="1"}'}


def test_names_come_from_the_tables():
    assert check_fired.documented_metrics(PAGE) == [
        "maxbooster_a_total", 'maxbooster_layer_active{layer="memory"}', "maxbooster_seconds"]
    assert check_fired.documented_fields(FIELDS) == ["time", "level", "requestId", "traceparent", "status"]


def test_what_has_not_fired_is_told():
    metrics = check_fired.documented_metrics(PAGE)
    assert check_fired.faults(metrics, ["status"], ALL | {"log:status"}) == []
    for missing in ALL:
        (fault,) = check_fired.faults(metrics, [], ALL - {missing})
        assert fault.startswith(missing.split("_count")[0])
    assert check_fired.faults([], ["status"], ALL) == ["status: in no log line of this run"]


def test_what_needs_replicas_is_judged_where_there_are_some():
    (name, need), = check_fired.NEEDS.items()
    assert check_fired.faults([name], [], ALL) == []
    assert check_fired.faults([name], [], ALL | {need}) != []
    assert check_fired.faults([name], [], ALL | {need, f"{name}"}) == []


def test_a_longer_name_does_not_stand_for_a_shorter_one():
    assert not check_fired.has_fired("maxbooster_a", {"maxbooster_a_total"})


def test_the_pages_of_this_tree_name_something():
    assert len(check_fired.documented_metrics(check_fired.read("metrics.md"))) > 60
    assert len(check_fired.documented_fields(check_fired.read("internals/metrics.md"))) > 25
