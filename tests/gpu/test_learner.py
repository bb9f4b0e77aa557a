"""The learner on a GPU: nccl, bfloat16, and the same numbers as on a CPU in float32."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from actors.learner.deepspeed_setup import learner_env
from raypref import types
from raypref.sections import LearnerConfig, LoraConfig, PolicyConfig
from tests.learner_bench import Host, Square, make_examples, make_policy, movement, plain_torch, run_config

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]

LEARNER = {"micro_batch_tokens": 60, "optimizer": {"lr": 1e-3}, "schedule": {"type": "constant", "warmup_ratio": 0.0}}


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> PolicyConfig:
    return make_policy(tmp_path_factory.mktemp("policy"))


def settings(policy: PolicyConfig, output_dir: Path, **learner: Any) -> dict[str, Any]:
    config = run_config(policy, LearnerConfig.parse(LEARNER | learner), Square(), output_dir)
    return {"config": config, "device": "cuda", "rank": 0, "world_size": 1}


@pytest.fixture(scope="module")
def host(policy: PolicyConfig, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    ray.init(address="local", num_gpus=1, include_dashboard=False, log_to_driver=False)
    actor = ray.remote(Host).options(num_gpus=1, runtime_env={"env_vars": learner_env("cuda", 1)})
    rank = actor.remote(**settings(policy, tmp_path_factory.mktemp("run")))
    ray.get(rank.start.remote(ray.get(rank.listen.remote(), timeout=60)), timeout=120)
    yield rank
    ray.shutdown()


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_steps_equal_plain_adamw(host: Any, policy: PolicyConfig, stage: int, tmp_path: Path) -> None:
    own = settings(policy, tmp_path, zero_stage=stage)
    ray.get(host.become.remote(own), timeout=120)
    ray.get(host.begin_iteration.remote(0, 3))
    start = ray.get(host.parameters.remote())
    batches = [make_examples(9, seed=seed) for seed in range(3)]
    for batch in batches:
        ray.get(host.step.remote([(0, 9)], batch), timeout=60)
    expected, _ = plain_torch(policy, own["config"].learner, Square(), batches, [1e-3] * 3)
    assert movement(ray.get(host.parameters.remote()), expected, start) < 1e-3


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_bfloat16_with_an_adapter_trains_and_continues_to_the_bit(host: Any, policy: PolicyConfig, stage: int, tmp_path: Path) -> None:
    adapted = policy.model_copy(update={"dtype": "bfloat16", "lora": LoraConfig(rank=4), "gradient_checkpointing": True})
    own = settings(adapted, tmp_path, zero_stage=stage, optimizer={"lr": 1e-2})
    ray.get(host.become.remote(own), timeout=120)
    ray.get(host.begin_iteration.remote(0, 9))
    batch = make_examples(8)
    losses = [ray.get(host.step.remote([(0, 8)], batch), timeout=60)["loss"] for _ in range(4)]
    assert losses[-1] < losses[0]
    ray.get(host.save.remote(tmp_path / "checkpoint"), timeout=60)
    sequences = [types.TokenSequence(example.prompt_ids[0], example.response_ids[0]) for example in batch]
    expected = ray.get(host.probe.remote(sequences))
    ray.get(host.become.remote(own), timeout=120)
    ray.get(host.load.remote(tmp_path / "checkpoint"), timeout=60)
    for found, value in zip(ray.get(host.probe.remote(sequences)), expected, strict=True):
        assert found.tolist() == value.tolist()
