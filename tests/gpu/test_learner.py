"""A learner rank on a GPU, with nccl and in bfloat16, has the numbers of plain torch in float32 on a CPU. The same tests run on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from actors.learner.deepspeed_setup import learner_env
from raypref import types
from raypref.sections import LearnerConfig, LoraConfig, PolicyConfig
from tests.gpu.devices import GPU
from tests.gpu.own_process import OwnProcess
from tests.learner_bench import Host, Square, make_examples, make_policy, movement, plain_torch, run_config

pytest.importorskip("deepspeed")

LR = 1e-3
LEARNER = {"micro_batch_tokens": 60, "optimizer": {"lr": LR}, "schedule": {"type": "constant", "warmup_ratio": 0.0}}
MASTER_AND_MOMENTS_BYTES = 12


class Rank(Host):
    """A rank that shows its optimiser's state, and how much memory it holds."""

    def optimizer_states(self) -> list[np.ndarray]:
        """Master weights (ZeRO-3: of this rank's shard) and moments."""
        wrapped = self._engine.optimizer
        masters = wrapped.fp32_partitioned_groups_flat if self._config.zero_stage == 3 else wrapped.single_partition_of_fp32_groups
        moments = [tensor for state in self._optimizer.state.values() for tensor in state.values()]
        return [tensor.detach().cpu().numpy().copy() for tensor in (*masters, *moments)]

    def allocated_bytes(self) -> int:
        return torch.cuda.memory_allocated()


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> PolicyConfig:
    return make_policy(tmp_path_factory.mktemp("policy"))


def settings(policy: PolicyConfig, output_dir: Path, device: str, **learner: Any) -> dict[str, Any]:
    config = run_config(policy, LearnerConfig.parse(LEARNER | learner), Square(), output_dir)
    return {"config": config, "device": device, "rank": 0, "world_size": 1}


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_rank_uses_its_own_accelerator(device: str) -> None:
    """A driver on a machine with GPUs may have DS_ACCELERATOR=cpu, as the quickstart's has, and Ray's actors inherit its environment."""
    assert learner_env(device, 1)["DS_ACCELERATOR"] == device


@pytest.fixture(scope="module", params=[pytest.param("cpu", marks=pytest.mark.integration), GPU])
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def rank(device: str, policy: PolicyConfig, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnProcess]:
    """A started rank in a process of its own."""
    env = learner_env(device.partition(":")[0], 1)
    started = OwnProcess(Rank, env, **settings(policy, tmp_path_factory.mktemp("run"), device))
    started("start_alone")
    yield started
    started.close()


def steps(rank: OwnProcess, given: dict[str, Any], policy: PolicyConfig) -> float:
    """Three steps, against plain torch in float32 on a CPU, relative to how far training moved the parameters."""
    rank("become", given)
    rank("begin_iteration", 0, 3)
    start = rank("parameters")
    batches = [make_examples(9, seed=seed) for seed in range(3)]
    for batch in batches:
        rank("step", [(0, 9)], batch)
    expected, _ = plain_torch(policy, given["config"].learner, Square(), batches, [LR] * 3)
    return movement(rank("parameters"), expected, start)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_steps_equal_plain_adamw(rank: OwnProcess, policy: PolicyConfig, device: str, stage: int, tmp_path: Path) -> None:
    """Measured: 1e-5 on an H200, 2e-6 on a CPU."""
    assert steps(rank, settings(policy, tmp_path, device, zero_stage=stage), policy) < 1e-4


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_bfloat16_steps_equal_float32_up_to_rounding(
    rank: OwnProcess, policy: PolicyConfig, device: str, stage: int, tmp_path: Path
) -> None:
    """Measured: 0.15 of the movement on an H200."""
    half = policy.model_copy(update={"dtype": "bfloat16"})
    assert steps(rank, settings(half, tmp_path, device, zero_stage=stage), policy) < 0.25


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_bfloat16_with_an_adapter_trains_and_continues_to_the_bit(
    rank: OwnProcess, policy: PolicyConfig, device: str, stage: int, tmp_path: Path
) -> None:
    adapted = policy.model_copy(update={"dtype": "bfloat16", "lora": LoraConfig(rank=4), "gradient_checkpointing": True})
    given = settings(adapted, tmp_path, device, zero_stage=stage, optimizer={"lr": 1e-2})
    rank("become", given)
    rank("begin_iteration", 0, 9)
    batch = make_examples(8)
    losses = [rank("step", [(0, 8)], batch)["loss"] for _ in range(4)]
    assert losses[-1] < losses[0]
    rank("save", tmp_path / "checkpoint")
    sequences = [types.TokenSequence(example.prompt_ids[0], example.response_ids[0]) for example in batch]
    expected = rank("probe", sequences)
    rank("become", given)
    rank("load", tmp_path / "checkpoint")
    for found, value in zip(rank("probe", sequences), expected, strict=True):
        assert found.tolist() == value.tolist()


@pytest.mark.parametrize(("saved", "loaded"), [(1, 2), (2, 1)])
def test_a_checkpoint_of_another_stage_continues(
    rank: OwnProcess, policy: PolicyConfig, device: str, saved: int, loaded: int, tmp_path: Path
) -> None:
    """Converted, its master weights and moments are the saved ones to the bit, and the next step goes where it goes without the change."""
    rank("become", settings(policy, tmp_path, device, zero_stage=saved))
    rank("begin_iteration", 0, 3)
    for seed in range(2):
        rank("step", [(0, 9)], make_examples(9, seed=seed))
    rank("save", tmp_path / "checkpoint")
    states, middle = rank("master_state"), rank("parameters")
    rank("step", [(0, 9)], make_examples(9, seed=2))
    expected = rank("parameters")
    rank("become", settings(policy, tmp_path, device, zero_stage=loaded))
    rank("load", tmp_path / "checkpoint")
    for name, value in rank("master_state").items():
        np.testing.assert_array_equal(value, states[name], err_msg=name)
    rank("step", [(0, 9)], make_examples(9, seed=2))
    assert movement(rank("parameters"), expected, middle) < 1e-4


@pytest.mark.parametrize("stage", [2, 3])
def test_the_optimisers_state_moves_out_and_back(rank: OwnProcess, policy: PolicyConfig, device: str, stage: int, tmp_path: Path) -> None:
    """It comes back to the bit, and training goes on. On a GPU at least the master weights and moments leave it. (Whole runs are compared
    on a CPU, in tests/integration/test_offload.py: on a GPU two equal runs differ by rounding, since sums are taken in any order.)"""
    half = policy.model_copy(update={"dtype": "bfloat16"})
    rank("become", settings(half, tmp_path, device, zero_stage=stage))
    rank("begin_iteration", 0, 3)
    batch = make_examples(9)
    losses = [rank("step", [(0, 9)], batch)["loss"]]
    for _ in range(2):
        expected, before = rank("optimizer_states"), rank("allocated_bytes")
        rank("offload")
        away = rank("allocated_bytes")
        rank("reload")
        for found, value in zip(rank("optimizer_states"), expected, strict=True):
            np.testing.assert_array_equal(found, value)
        if device != "cpu":
            least = MASTER_AND_MOMENTS_BYTES * sum(value.size for value in rank("parameters").values())
            assert before - away >= least
            assert rank("allocated_bytes") - away >= least
        losses.append(rank("step", [(0, 9)], batch)["loss"])
    assert losses == sorted(losses, reverse=True)
