"""The optimiser's state on real DeepSpeed engines: what it weighs, and moved out between steps (on a CPU nothing moves: tests/gpu)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from transformers import AutoConfig

from raypref import types
from raypref.plan.learner_memory import gradient_bytes, optimizer_bytes, parameter_bytes
from raypref.plan.memory_job import Job
from raypref.plan.model_shape import ModelShape
from raypref.sections import PolicyConfig
from tests.learner_bench import Bench, Benches, make_examples

pytestmark = pytest.mark.integration

BATCHES = [make_examples(9, seed=seed) for seed in range(3)]


@pytest.fixture
def bench(benches: Benches) -> Bench:
    return benches[2]


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
    bench.call("probe", [types.TokenSequence(BATCHES[0][0].prompt_ids[0], BATCHES[0][0].response_ids[0])])
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


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_the_memory_model_against_what_deepspeed_holds(bench: Bench, policy: PolicyConfig, dtype: Any, stage: Any) -> None:
    """Two ranks after a step, within 1%: DeepSpeed pads the shares of a tiny model by some elements."""
    chosen = policy.model_copy(update={"dtype": dtype})
    bench.become(chosen, {"zero_stage": stage})
    bench.step(*BATCHES[0])
    shape = ModelShape.of(AutoConfig.from_pretrained(policy.path))
    job = Job(shape, 4 if dtype == "float32" else 2, zero_stage=stage, ranks=2, micro_batch_tokens=60)
    for weights in ray.get([rank.__ray_call__.remote(weigh) for rank in bench.ranks], timeout=60):
        assert weights["parameters"] == pytest.approx(parameter_bytes(job), rel=0.01)
        assert weights["optimizer"] == pytest.approx(optimizer_bytes(job), rel=0.01)
        if stage == 3:
            assert weights["gradients"] == pytest.approx(gradient_bytes(job), rel=0.01)
        elif stage == 1 and dtype == "bfloat16":
            assert weights["gradients"] == pytest.approx(4 * shape.parameters, rel=0.01)


def weigh(rank: Any) -> dict[str, int]:
    """Bytes of a rank's tensors; gradients as far as they stay between steps. Runs in the rank's process."""
    optimizer = rank._engine.optimizer
    names = ("fp32_partitioned_groups_flat", "single_partition_of_fp32_groups", "fp32_groups_flat_partition")
    (masters,) = [getattr(optimizer, name) for name in names if getattr(optimizer, name, None)]
    moments = [tensor for state in rank._optimizer.state.values() for tensor in state.values() if tensor.dim()]
    gradients = [getattr(optimizer, "grad_partitions_flat_buffer", None), *getattr(optimizer, "fp32_groups_gradients_flat", [])]
    return {
        "parameters": sum(getattr(parameter, "ds_tensor", parameter).nbytes for parameter in rank._engine.module.parameters()),
        "optimizer": sum(tensor.nbytes for tensor in (*masters, *moments)),
        "gradients": sum(tensor.nbytes for tensor in gradients if tensor is not None),
    }


def check_equal(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
