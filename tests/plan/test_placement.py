"""Bundles from the config, and refusals with the arithmetic."""

from __future__ import annotations

from typing import Any

import pytest

from raypref.errors import ConfigError
from raypref.plan.capacity import Capacity, arranged, cannot_fit, in_use
from raypref.plan.placement import Need, joined, plan_placement
from raypref.sections import PlacementConfig

ALL = Need(rollout=True, reference=True, oracle=True)


def plan(need: Need = ALL, **sections: Any) -> Any:
    return plan_placement(PlacementConfig.parse(sections), need)


def test_separate_layout() -> None:
    """4 ranks + 2 engines of 2 GPUs + 1 reference + an oracle without a GPU: 4 + 4 + 1 GPUs; cores 4 + 2*2 + 1 + 1."""
    placed = plan(learner={"ranks": 4}, rollout={"engines": 2, "tensor_parallel": 2}, oracle={"gpus": 0})
    assert placed.total("GPU") == 9
    assert placed.total("CPU") == 10
    assert [actor.bundle for actor in placed.of("rollout")] == [4, 5]
    assert [placed.bundles[actor.bundle]["GPU"] for actor in placed.of("rollout")] == [2, 2]
    assert "GPU" not in placed.bundles[placed.of("oracle")[0].bundle]
    assert placed.arithmetic() == (
        "learner 4 x {GPU 1, CPU 1} + rollout 2 x {GPU 2, CPU 2} + reference 1 x {GPU 1, CPU 1} + oracle 1 x {CPU 1} = 9 GPU, 10 CPU"
    )


def test_colocated_layout() -> None:
    """4 ranks, engines of 2 GPUs: 2 bundles of 2; Ray reserves none for an engine, which uses those of its bundle's ranks."""
    placed = plan(layout="colocated", learner={"ranks": 4}, rollout={"engines": 2, "tensor_parallel": 2}, reference={"replicas": 2})
    assert [bundle["GPU"] for bundle in placed.bundles] == [2, 2]
    assert [(actor.bundle, actor.gpus, actor.shares_gpus_of) for actor in placed.of("rollout")] == [(0, 0, (0, 1)), (1, 0, (2, 3))]
    assert [actor.bundle for actor in placed.of("learner")] == [0, 0, 1, 1]
    assert [actor.bundle for actor in placed.of("reference")] == [0, 1]
    assert placed.total("GPU") == 4


def test_roles_that_are_not_needed_take_nothing() -> None:
    placed = plan(Need(rollout=False, reference=False, oracle=False))
    assert placed.total("GPU") == 1
    assert {actor.role for actor in placed.actors} == {"learner"}


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"layout": "colocated", "learner": {"ranks": 3}, "rollout": {"tensor_parallel": 2}}, "multiple of 2 learner ranks, not 3"),
        ({"layout": "colocated", "learner": {"ranks": 4}, "rollout": {"engines": 1}}, "set it to 4"),
        ({"rollout": {"engines": 0}}, "placement.rollout.engines: 0"),
    ],
)
def test_impossible_layouts(sections: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(**sections)


def nodes(*shapes: tuple[float, float], used: dict[int, tuple[float, float]] | None = None) -> list[Capacity]:
    """Nodes of (GPUs, CPUs); ``used`` gives what others have of some of them."""
    taken = used or {}

    def node(k: int, gpus: float, cpus: float) -> Capacity:
        less = taken.get(k, (0.0, 0.0))
        return Capacity(f"host-{k} (10.0.0.{k})", {"GPU": gpus, "CPU": cpus}, {"GPU": gpus - less[0], "CPU": cpus - less[1]})

    return [node(k, gpus, cpus) for k, (gpus, cpus) in enumerate(shapes)]


def test_engine_stays_on_one_node() -> None:
    """Two nodes of 2 GPUs have 4 in all, but an engine of 4 fits on neither."""
    placed = plan(Need(rollout=True, reference=False, oracle=False), learner={"ranks": 1}, rollout={"tensor_parallel": 4})
    reason = cannot_fit(placed, nodes((2, 8), (2, 8)))
    assert reason is not None
    assert "rollout 1 x {GPU 4, CPU 4}" in reason
    assert "the largest node is host-0 (10.0.0.0): GPU 2, CPU 8; the 2 nodes have 4 GPU, 16 CPU in all" in reason
    assert "no node has room for a bundle of {GPU 4, CPU 4}" in reason
    assert cannot_fit(placed, nodes((2, 8), (4, 8))) is None


def test_cores_count_too() -> None:
    placed = plan(learner={"ranks": 2})
    assert cannot_fit(placed, nodes((8, 4))) is not None
    assert cannot_fit(placed, nodes((8, 5))) is None


def test_what_must_be_on_one_node_is_not_added_up_over_nodes() -> None:
    """6 GPUs and 7 CPUs: 2 + 4 GPUs and 4 + 6 CPUs are enough in all, and one node is not enough."""
    placed = plan(Need(rollout=True, reference=True, oracle=True), learner={"ranks": 4}, oracle={"gpus": 0})
    assert (placed.total("GPU"), placed.total("CPU")) == (6, 7)
    two = nodes((2, 4), (4, 6), used={1: (1, 2)})
    assert cannot_fit(placed, two) is None
    reason = cannot_fit(placed, two, one_node=True)
    assert reason is not None
    assert "needed on one node" in reason
    assert "= 6 GPU, 7 CPU" in reason
    assert "the largest node is host-1 (10.0.0.1): GPU 4, CPU 6 (of which others use GPU 1, CPU 2)" in reason
    assert "6 GPU, 10 CPU in all" in reason
    assert cannot_fit(placed, nodes((6, 7)), one_node=True) is None


def test_a_share_of_a_gpu_is_a_share_of_one_gpu() -> None:
    """Three shares of 0.6 are 1.8 GPUs, but two GPUs have room for one share each."""
    placed = plan(Need(rollout=False, reference=False, oracle=True, learner=False), oracle={"replicas": 3, "gpus": 0.6})
    assert cannot_fit(placed, nodes((2, 8))) is not None
    assert cannot_fit(placed, nodes((3, 8))) is None


def test_what_others_use_is_told_to_a_run_that_waits() -> None:
    placed = plan(Need(rollout=False, reference=False, oracle=False), learner={"ranks": 4})
    told = in_use(placed, nodes((4, 8), (2, 8), used={0: (3, 1), 1: (2, 2)}), one_node=False)
    assert "host-0 (10.0.0.0): GPU 4, CPU 8 (of which others use GPU 3, CPU 1)" in told
    assert "others use a part of: host-1 (10.0.0.1): GPU 2, CPU 8 (of which others use GPU 2, CPU 2)" in told


@pytest.mark.parametrize("layout", ["separate", "colocated"])
def test_joined_bundles_hold_the_same_actors_and_resources(layout: str) -> None:
    placed = plan(layout=layout, learner={"ranks": 4}, rollout={"engines": 2, "tensor_parallel": 2})
    together = joined(placed, 4)
    assert {rank.bundle for rank in together.of("learner")} == {0}
    assert (together.total("GPU"), together.total("CPU")) == (placed.total("GPU"), placed.total("CPU"))
    assert [(actor.name, actor.cpus, actor.gpus) for actor in together.actors] == [(a.name, a.cpus, a.gpus) for a in placed.actors]
    for k, bundle in enumerate(together.bundles):
        assert sum(actor.cpus for actor in together.actors if actor.bundle == k) == bundle["CPU"]
        assert sum(actor.gpus for actor in together.actors if actor.bundle == k) == bundle.get("GPU", 0)
    assert joined(placed, 1) == placed


def ranks_by_bundle(ranks: int, *shapes: tuple[float, float], **more: Any) -> list[int]:
    """How many learner ranks each of their bundles has, beside two engines of two GPUs."""
    placed = plan(Need(rollout=True, reference=False, oracle=False), learner={"ranks": ranks}, rollout={"engines": 2, "tensor_parallel": 2})
    bundles = [rank.bundle for rank in arranged(placed, nodes(*shapes, **more)).of("learner")]
    return [bundles.count(bundle) for bundle in sorted(set(bundles))]


def test_the_learners_ranks_stay_on_one_node_where_they_fit() -> None:
    """Beside two engines of 2 GPUs: 8 ranks on one of two nodes of 8, never 6 + 2; on three nodes of 4, 4 + 4."""
    assert ranks_by_bundle(8, (8, 16), (8, 16)) == [8]
    assert ranks_by_bundle(8, (4, 16), (4, 16), (4, 16)) == [4, 4]
    assert ranks_by_bundle(4, (4, 16), (4, 16)) == [4]


def test_gpus_that_others_use_count_as_used() -> None:
    """Of 3, 3 and 4 free GPUs the 4 are the ranks'. Of 3, 3 and 2, 3 ranks are together: that is faster than to wait for others."""
    three = ((4, 16), (4, 16), (4, 16))
    assert ranks_by_bundle(4, *three, used={0: (1, 1), 1: (1, 1)}) == [4]
    assert ranks_by_bundle(3, *three, used={0: (1, 1), 1: (2, 1), 2: (2, 1)}) == [3]
    assert ranks_by_bundle(4, *three, used={0: (1, 1), 1: (1, 1), 2: (2, 1)}) == [3, 1]


def test_a_plan_for_nodes_that_an_autoscaler_will_add_stays_as_it_is() -> None:
    assert ranks_by_bundle(4) == [1, 1, 1, 1]


def test_on_a_cpu_the_arithmetic_says_that_gpus_are_counted_and_not_there() -> None:
    plan = plan_placement(PlacementConfig(), Need(rollout=True, reference=False, oracle=False))
    assert plan.arithmetic("cpu") == f"{plan.arithmetic()} (counted, not there: the run computes on CPUs)"
    assert plan.arithmetic("cuda") == plan.arithmetic()


def test_a_reference_on_several_gpus() -> None:
    """Two replicas of two GPUs each; half of the third GPU, several for an oracle, and several beside learner ranks are refused."""
    placed = plan(reference={"gpus": 2, "replicas": 2})
    assert [placed.bundles[actor.bundle]["GPU"] for actor in placed.of("reference")] == [2, 2]
    with pytest.raises(ConfigError, match=r"placement\.reference\.gpus: 2\.5; give a share of a GPU, or a whole number"):
        plan(reference={"gpus": 2.5})
    with pytest.raises(ConfigError, match=r"placement\.oracle\.gpus: 2, but an oracle computes on one GPU"):
        plan(oracle={"gpus": 2})
    with pytest.raises(ConfigError, match=r"placement\.reference\.gpus: 2, but a colocated reference uses the GPU of one learner rank"):
        plan(layout="colocated", reference={"gpus": 2})
