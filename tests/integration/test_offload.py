"""The optimiser's state in host memory between steps: the calls on real DeepSpeed engines. On a CPU nothing moves (tests/gpu measures)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from raypref import types
from raypref.config import PolicyConfig
from tests.integration.test_learner import Bench
from tests.learner_bench import make_examples, make_policy

pytestmark = pytest.mark.integration

BATCHES = [make_examples(9, seed=seed) for seed in range(3)]


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> PolicyConfig:
    return make_policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture(scope="module")
def bench(policy: PolicyConfig, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield Bench(2, policy, tmp_path_factory.mktemp("run"))
    ray.shutdown()


def tell(bench: Bench, method: str) -> None:
    ray.get([getattr(rank, method).remote() for rank in bench.ranks], timeout=60)


@pytest.mark.parametrize(
    "settings", [{"zero_stage": 1}, {"zero_stage": 2}, {"zero_stage": 3}, {"zero_stage": 3, "optimizer": {"type": "rmsprop"}}]
)
def test_a_run_with_the_state_moved_out_between_steps(bench: Bench, policy: PolicyConfig, settings: dict[str, Any], tmp_path: Path) -> None:
    """To the bit the run without it. A probe in between works, and a checkpoint that is saved there."""
    bench.become(policy, settings)
    for batch in BATCHES:
        bench.step(*batch)
    expected = bench.parameters()

    bench.become(policy, settings)
    bench.step(*BATCHES[0])
    tell(bench, "offload")
    bench.call("probe", [types.Sequence(BATCHES[0][0].prompt_ids[0], BATCHES[0][0].response_ids[0])])
    bench.call("save", tmp_path / "away")
    for batch in BATCHES[1:]:
        tell(bench, "offload")
        tell(bench, "reload")
        tell(bench, "reload")
        bench.step(*batch)
    check_equal(bench.parameters(), expected)

    bench.become(policy, settings)
    tell(bench, "offload")
    tell(bench, "reload")
    bench.call("load", tmp_path / "away")
    for batch in BATCHES[1:]:
        bench.step(*batch)
    check_equal(bench.parameters(), expected)


def test_an_iteration_begun_while_the_state_is_away_starts_the_optimiser_anew(bench: Bench, policy: PolicyConfig) -> None:
    bench.become(policy, {"zero_stage": 2})
    bench.step(*BATCHES[0])
    bench.call("begin_iteration", 1, 5)
    bench.step(*BATCHES[1])
    expected = bench.parameters()
    bench.become(policy, {"zero_stage": 2})
    bench.step(*BATCHES[0])
    tell(bench, "offload")
    bench.call("begin_iteration", 1, 5)
    tell(bench, "reload")
    bench.step(*BATCHES[1])
    check_equal(bench.parameters(), expected)


def check_equal(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
