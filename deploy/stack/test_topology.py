"""What every topology keeps to, and what is refused."""

import pathlib
import re
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from stack import settings, topology  # noqa: E402  (deploy/stack, found by the path above)
from stack.say import Refusal  # noqa: E402

REPO = pathlib.Path(__file__).resolve().parent.parent.parent
LAYOUTS = [(phase, shards, servers) for phase in topology.PHASES for shards in (1, 4, 16, 128)
           for servers in (None, 1, 4, topology.SERVERS_MAX) if not servers or servers <= shards]


@pytest.mark.parametrize("phase,shards,servers", LAYOUTS)
def test_every_port_is_in_the_range_and_nobody_has_it_twice(phase, shards, servers):
    ports = [port for port, _ in topology.build(phase, 9000, shards, servers).listening()]
    ports.append(9000 + topology.SMTP)
    assert len(set(ports)) == len(ports)
    assert all(9000 <= port < 9100 for port in ports)


@pytest.mark.parametrize("phase,shards,servers", LAYOUTS)
def test_every_shard_stands_on_one_server(phase, shards, servers):
    layout = topology.build(phase, 9000, shards, servers)
    assert layout.shards() == list(range(shards))
    sizes = {len(d.shards) for d in layout.databases}
    assert min(sizes) >= 1 and max(sizes) - min(sizes) <= 1
    assert len(layout.databases) == servers or servers is None


@pytest.mark.parametrize("phase", topology.PHASES)
def test_every_slot_of_a_redis_cluster_has_one_master(phase):
    layout = topology.build(phase, 9000, 16)
    expected = topology.values_of(phase)["REDIS_CLUSTER_NODES"]
    if not layout.is_redis_cluster:
        assert expected == "0"
        return
    assert expected == str(len(layout.redis))
    slots = [slot for node in layout.redis for slot in node.slots or ()]
    assert sorted(slots) == list(range(topology.REDIS_SLOTS))
    masters = {n.number for n in layout.redis if n.slots}
    assert all(n.master in masters for n in layout.redis if not n.slots)


def test_every_program_has_a_name_of_its_own():
    layout = topology.build(1, 9000, 4)
    names = [p.program for p in layout.instances + layout.databases + layout.replicas
             + layout.redis + layout.workers] + list(layout.schedulers)
    assert len(set(names)) == len(names)


def test_a_shard_stays_on_its_server_where_shards_are_doubled():
    before, after = topology.build(3, 9000, 16), topology.build(3, 9000, 32)
    for shard in range(16):
        assert before.database_of(shard).number == after.database_of(shard).number \
            == after.database_of(shard + 16).number


def test_the_settings_of_every_phase_are_ones_that_the_programs_take():
    table = settings.read_table(REPO)
    for phase in topology.PHASES:
        for name, value in topology.values_of(phase).items():
            settings.check(table, name, value)


def kept(**values):
    found = settings.Settings("mine")
    for name, value in values.items():
        setattr(found, name, value)
    return found


@pytest.mark.parametrize("value", ["0", "9", "-1", "x", "1.5", "04"])
def test_a_number_of_servers_that_cannot_be_is_refused(value):
    with pytest.raises(Refusal, match=f'DB_SERVERS is "{re.escape(value)}": allowed'):
        kept().apply({"DB_SERVERS": value}, REPO, settings.read_table(REPO))


def test_more_servers_than_shards_are_refused():
    with pytest.raises(Refusal, match="DB_SERVERS=4 is more than SHARD_COUNT=2"):
        topology.build(0, 9000, 2, 4)


def test_a_phase_that_is_not_described_is_refused():
    with pytest.raises(Refusal, match="PHASE=2 cannot be built here"):
        topology.build(2, 9000, 1)


def test_data_do_not_follow_another_number_of_servers():
    with pytest.raises(Refusal, match="lie on DB_SERVERS=4"):
        kept(data_shards=16, data_phase=0, data_servers=4).guard_data(16, 1)
    kept(data_shards=16, data_phase=0, data_servers=4).guard_data(16, 4)
    kept(data_shards=16, data_phase=0).guard_data(16, 1)


def test_what_was_given_wins_over_the_phase_and_the_phase_over_the_tier():
    table = settings.read_table(REPO)
    mine = kept(phase=3, overrides={"API_THREADS": "5"})
    values = mine.merged(REPO, table, topology.values_of(3))
    assert (values["SHARD_COUNT"], values["API_THREADS"], values["DB_POOL_SIZE"]) == ("16", "5", "5")
