"""A short run of the queue's checker; make check-queue SEEDS=20 is the long one."""
import pytest

from harness import queuecheck, queueworld


@pytest.fixture(scope="module", name="ground")
def _ground(tmp_path_factory):
    ground = queuecheck.Ground(tmp_path_factory.mktemp("check"))
    yield ground
    ground.close()


@pytest.mark.parametrize("kind", [queueworld.Single, queueworld.Cluster], ids=lambda k: k.name)
def test_no_job_is_lost_or_doubled_in_a_storm(ground, kind):
    world = kind()
    try:
        figures = queuecheck.Check(world, ground, seed=1, jobs=1500).run()
        assert figures["faults"] >= 5 and figures["runs"] > 0
    finally:
        world.close()


def test_the_same_seed_gives_the_same_storm():
    class World:
        name = "cluster"

    class Check:
        world = World()

    def plan(seed):
        return [(at, fault.__name__, number) for at, fault, number in
                queuecheck.Storm(Check(), queuecheck.random.Random(seed)).plan()]
    assert plan(3) == plan(3) != plan(4)
    assert {"migrate", "fail_over"} <= {name for _, name, _ in plan(3)}
