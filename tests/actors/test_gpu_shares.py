"""Which shares of a GPU are refused, and which actors start at the same time."""

from __future__ import annotations

from typing import Any

import pytest

from actors.cluster.gpu_shares import check_shares, waves
from raypref.errors import ConfigError
from raypref.oracles.base import oracles
from raypref.plan.placement import Need, plan_placement
from raypref.sections import PlacementConfig

ALL = Need(rollout=True, reference=True, oracle=True)
VLLM = {"type": "pairwise_lm", "path": "judge", "engine": "vllm", "gpu_memory_utilization": 0.4}
TRANSFORMERS = {"type": "pairwise_lm", "path": "judge", "engine": "transformers"}


def plan(**sections: Any) -> Any:
    return plan_placement(PlacementConfig.parse(sections), ALL)


def names(in_order: Any) -> list[list[str]]:
    return [[actor.name for actor in wave] for wave in in_order]


def test_share_of_the_engines_of_an_oracle() -> None:
    assert oracles.build(VLLM).engine_share == 0.4
    assert oracles.build(TRANSFORMERS).engine_share is None
    two = {"type": "ensemble", "members": [VLLM, VLLM, TRANSFORMERS]}
    assert oracles.build(two).engine_share == pytest.approx(0.8)
    assert oracles.build({"type": "ensemble", "members": [TRANSFORMERS, TRANSFORMERS]}).engine_share is None


@pytest.mark.parametrize(
    ("sections", "rollout", "oracle", "message"),
    [
        ({"reference": {"gpus": 0}}, 0.85, None, r"placement\.reference\.gpus: 0"),
        ({"oracle": {"gpus": 0}}, 0.85, 0.85, r"placement\.oracle\.gpus: 0"),
        ({"oracle": {"gpus": 0.5}}, 0.85, 0.85, r"oracle\.gpu_memory_utilization: 0\.85 .* placement\.oracle\.gpus=0\.5 .* 0\.45 or less"),
        ({"layout": "colocated"}, 0.6, 0.5, r"oracle\.gpu_memory_utilization: 0\.5 .* rollout\.gpu_memory_utilization=0\.6, is 1\.1"),
        ({"layout": "colocated", "oracle": {"replicas": 2}}, 0.4, 0.35, r"each of 2 oracle actors .* is 1\.1"),
    ],
)
def test_shares_that_cannot_work(sections: dict[str, Any], rollout: float, oracle: float | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_shares(plan(**sections), rollout, oracle)


@pytest.mark.parametrize(
    ("sections", "rollout", "oracle"),
    [
        ({"reference": {"gpus": 0.5}, "oracle": {"gpus": 0.5}}, 0.85, 0.45),
        ({"oracle": {"gpus": 1}}, 0.85, 0.85),
        ({"oracle": {"gpus": 0}}, 0.85, None),
        ({"layout": "colocated", "reference": {"gpus": 0}}, 0.5, 0.4),
        ({"layout": "colocated", "oracle": {"gpus": 0}}, 0.9, None),
    ],
)
def test_shares_that_work(sections: dict[str, Any], rollout: float, oracle: float | None) -> None:
    check_shares(plan(**sections), rollout, oracle)


def test_actors_with_gpus_of_their_own_start_side_by_side() -> None:
    assert names(waves(plan(), oracle_engine=True)) == [["learner-0", "rollout-0", "reference-0", "oracle-0"]]
    halves = plan(reference={"gpus": 0.5}, oracle={"gpus": 0.5})
    assert names(waves(halves, oracle_engine=False)) == [["learner-0", "rollout-0", "reference-0", "oracle-0"]], "nobody measures"


def test_an_oracles_engine_that_shares_a_gpu_starts_last_and_alone() -> None:
    shared = plan(reference={"gpus": 0.5}, oracle={"gpus": 0.25, "replicas": 2})
    assert names(waves(shared, oracle_engine=True)) == [["learner-0", "rollout-0", "reference-0"], ["oracle-0"], ["oracle-1"]]


def test_colocated_actors_start_after_the_ranks_whose_gpus_they_use() -> None:
    shared = plan(layout="colocated")
    assert names(waves(shared, oracle_engine=False)) == [["learner-0"], ["rollout-0"], ["reference-0", "oracle-0"]]
    assert names(waves(shared, oracle_engine=True)) == [["learner-0"], ["rollout-0"], ["reference-0"], ["oracle-0"]]
