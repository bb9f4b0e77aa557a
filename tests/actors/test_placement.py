"""Bundles from the config, and refusals with the arithmetic."""

from __future__ import annotations

from typing import Any

import pytest

from actors.cluster.placement import Need, cannot_fit, plan_placement
from raypref.errors import ConfigError
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


def test_engine_stays_on_one_node() -> None:
    """Two nodes of 2 GPUs have 4 in all, but an engine of 4 fits on neither."""
    placed = plan(Need(rollout=True, reference=False, oracle=False), learner={"ranks": 1}, rollout={"tensor_parallel": 4})
    reason = cannot_fit(placed, [{"GPU": 2, "CPU": 8}, {"GPU": 2, "CPU": 8}])
    assert reason is not None
    assert "rollout 1 x {GPU 4, CPU 4}" in reason
    assert "(in all 4 GPU, 16 CPU)" in reason
    assert "no node has room for a bundle of {GPU 4, CPU 4}" in reason
    assert cannot_fit(placed, [{"GPU": 2, "CPU": 8}, {"GPU": 4, "CPU": 8}]) is None


def test_cores_count_too() -> None:
    placed = plan(learner={"ranks": 2})
    assert cannot_fit(placed, [{"GPU": 8, "CPU": 4}]) is not None
    assert cannot_fit(placed, [{"GPU": 8, "CPU": 5}]) is None


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
