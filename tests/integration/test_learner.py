"""The learner's ranks, on real DeepSpeed and gloo: one group of one rank and one of two, which change their settings between tests."""

from __future__ import annotations

import asyncio
import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch

from actors.learner.deepspeed_setup import learner_env
from actors.learner.group import LearnerGroup
from actors.learner.rank import LearnerRank
from actors.policy_model import load_model, load_tokenizer
from raypref import types
from raypref.errors import ConfigError, LossNotFinite
from raypref.sections import LearnerConfig, LoraConfig, PolicyConfig
from raypref.training.logprobs import response_logps
from tests.learner_bench import Host, Square, TokenNegative, make_examples, make_policy, movement, plain_torch

pytestmark = pytest.mark.integration

LR = 1e-3
BASE: dict[str, Any] = {
    "micro_batch_tokens": 60,
    "max_grad_norm": 0.5,
    "timeout_s": 60.0,
    "optimizer": {"lr": LR, "weight_decay": 0.1},
    "schedule": {"type": "constant", "warmup_ratio": 0.0},
}


class Bench:
    """A learner group whose settings change; calls are made as the driver makes them."""

    def __init__(self, world_size: int, policy: PolicyConfig, output_dir: Path) -> None:
        self.output_dir = output_dir
        self.ranks = [
            ray.remote(Host)
            .options(num_cpus=0, runtime_env={"env_vars": learner_env("cpu", 1)})
            .remote(**self._settings(policy, k, world_size, {}))
            for k in range(world_size)
        ]
        self.group = LearnerGroup(self.ranks, timeout_s=90.0)
        self.call("start")

    def _settings(self, policy: PolicyConfig, rank: int, world_size: int, learner: dict[str, Any], **other: Any) -> dict[str, Any]:
        common = {"policy": policy, "learner": LearnerConfig.parse(BASE | learner), "loss": Square(), "device": "cpu", "seed": 0}
        return common | {"rank": rank, "world_size": world_size, "iterations": 2, "output_dir": self.output_dir} | other

    def become(self, policy: PolicyConfig, learner: dict[str, Any] | None = None, **other: Any) -> LearnerConfig:
        """New settings, a fresh policy, and the first iteration begun."""
        world_size = len(self.ranks)
        settings = [self._settings(policy, k, world_size, learner or {}, **other) for k in range(world_size)]
        ray.get([rank.become.remote(own) for rank, own in zip(self.ranks, settings, strict=True)], timeout=90)
        self.call("begin_iteration", 0, 5)
        return settings[0]["learner"]

    def call(self, method: str, *arguments: Any) -> Any:
        return asyncio.run(getattr(self.group, method)(*arguments))

    def step(self, *batch: types.Example) -> dict[str, float]:
        """The batch in two slices, the second of which is a part of a larger tuple."""
        half = len(batch) // 2
        first, second = ray.put(batch[:half]), ray.put((batch[0], *batch[half:]))
        return self.call("step", [types.Slice(first, 0, half), types.Slice(second, 1, 1 + len(batch) - half)])

    def parameters(self) -> dict[str, np.ndarray]:
        """Rank 0's; all ranks agree to the bit."""
        found = ray.get([rank.parameters.remote() for rank in self.ranks], timeout=60)
        for other in found[1:]:
            for name, value in found[0].items():
                np.testing.assert_array_equal(other[name], value)
        return found[0]


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> PolicyConfig:
    return make_policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def benches(cluster: None, policy: PolicyConfig, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Bench]:
    return {world_size: Bench(world_size, policy, tmp_path_factory.mktemp(f"run-{world_size}")) for world_size in (1, 2)}


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("world_size", [1, 2])
def test_steps_equal_plain_adamw(benches: dict[int, Bench], policy: PolicyConfig, world_size: int, stage: int) -> None:
    """Four clipped and accumulated steps against a loop of one sequence a pass: to 1e-4 of what training moved (measured: 2e-6).

    A probe between them, as every sync makes one, changes nothing."""
    bench = benches[world_size]
    learner = bench.become(policy, {"zero_stage": stage})
    start = bench.parameters()
    batches = [make_examples(9, seed=seed) for seed in range(4)]
    metrics = [bench.step(*batch) for batch in batches[:2]]
    bench.call("probe", [types.TokenSequence(example.prompt_ids[0], example.response_ids[0]) for example in batches[0]])
    metrics += [bench.step(*batch) for batch in batches[2:]]
    expected, norms = plain_torch(policy, learner, Square(), batches, [LR] * 4)
    assert movement(bench.parameters(), expected, start) < 1e-4
    assert [m["grad_norm"] for m in metrics] == pytest.approx(norms, rel=1e-4)
    assert max(norms) > 0.5, "clipping was not put to the test"


def test_shards_average_to_the_whole(benches: dict[int, Bench], policy: PolicyConfig) -> None:
    """The mean over tokens, which no mean of the ranks' means gives: 7 examples of unlike length on two ranks, against one."""
    results = []
    for bench in benches.values():
        learner = bench.become(policy, loss=TokenNegative())
        start = bench.parameters()
        metrics = bench.step(*make_examples(7, seed=3))
        results.append((bench.parameters(), metrics))
    expected, _ = plain_torch(policy, learner, TokenNegative(), [make_examples(7, seed=3)], [LR])
    for parameters, metrics in results:
        assert movement(parameters, expected, start) < 1e-4
        assert metrics == pytest.approx(results[0][1], rel=1e-5)
        assert metrics["tokens"] == sum(len(r) for example in make_examples(7, seed=3) for r in example.response_ids)


def test_rmsprop(benches: dict[int, Bench], policy: PolicyConfig) -> None:
    bench = benches[2]
    learner = bench.become(policy, {"optimizer": {"type": "rmsprop", "lr": LR, "beta2": 0.99}, "max_grad_norm": 0.0})
    start = bench.parameters()
    batches = [make_examples(6, seed=seed) for seed in range(2)]
    for batch in batches:
        bench.step(*batch)
    expected, _ = plain_torch(policy, learner, Square(), batches, [LR] * 2)
    assert movement(bench.parameters(), expected, start) < 1e-4


def test_schedule_and_optimizer_start_anew(benches: dict[int, Bench], policy: PolicyConfig) -> None:
    """Linear over 5 steps without warm-up: rates of 1, 4/5; a new iteration begins with 1 again, and like a fresh optimiser."""
    bench = benches[1]
    learner = bench.become(policy, {"schedule": {"type": "linear", "warmup_ratio": 0.0}})
    batch = make_examples(4)
    rates = [bench.step(*batch)["learning_rate"] for _ in range(2)]
    bench.call("begin_iteration", 1, 4)
    middle = bench.parameters()
    rates.append(bench.step(*batch)["learning_rate"])
    assert rates == pytest.approx([LR, LR * 4 / 5, LR])
    fresh_policy = _saved(middle, policy, bench.output_dir / "middle")
    expected, _ = plain_torch(fresh_policy, learner, Square(), [batch], [LR])
    assert movement(bench.parameters(), expected, middle) < 1e-3  # a first step divides each gradient by itself, rounding included


def _saved(parameters: dict[str, np.ndarray], policy: PolicyConfig, directory: Path) -> PolicyConfig:
    model: Any = load_model(policy, torch.device("cpu"))
    model.load_state_dict({name: torch.tensor(value) for name, value in parameters.items()}, strict=False)
    model.save_pretrained(directory)
    return policy.model_copy(update={"path": str(directory)})


def test_bfloat16(benches: dict[int, Bench], policy: PolicyConfig) -> None:
    """bfloat16 at stage 1 goes where float32 goes, to its rounding (measured: 0.12 of the movement); stage 0 is refused."""
    bench = benches[2]
    half = policy.model_copy(update={"dtype": "bfloat16"})
    learner = bench.become(half, {"zero_stage": 1})
    start = bench.parameters()
    batches = [make_examples(9, seed=seed) for seed in range(4)]
    for batch in batches:
        bench.step(*batch)
    expected, _ = plain_torch(policy, learner, Square(), batches, [LR] * 4)
    assert movement(bench.parameters(), expected, start) < 0.25
    with pytest.raises(ConfigError, match=r"learner\.zero_stage: 0, which trains wrongly"):
        LearnerRank(**bench._settings(half, 0, 1, {"zero_stage": 0}))


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_loss_that_is_not_finite_stops_before_the_parameters(benches: dict[int, Bench], policy: PolicyConfig, stage: int) -> None:
    """A target of NaN makes the loss NaN; one of 1e45 leaves it finite in float64, and its gradient overflows in float32."""
    bench = benches[2]
    learner = bench.become(policy, {"zero_stage": stage})
    start = bench.parameters()
    for seed, target in ((1, math.nan), (2, 1e45)):
        batch = list(make_examples(6, seed=seed))
        batch[4] = _with_target(batch[4], target)
        with pytest.raises(LossNotFinite, match="parameters are as before") as caught:
            bench.step(*batch)
        (path,) = [Path(word.rstrip(";")) for word in str(caught.value).split() if word.endswith(".json;")]
        worst = json.loads(path.read_text())["examples"][0]
        if math.isnan(target):
            assert (worst["prompt_id"], worst["loss"], worst["finite"]) == ("p4", "nan", False)
            assert worst["prompt_ids"] == [prompt.tolist() for prompt in batch[4].prompt_ids]
            assert all(isinstance(value, float) and value < 0 for value in worst["policy_logps"])
    for name, value in bench.parameters().items():
        np.testing.assert_array_equal(value, start[name])
    bench.step(*make_examples(6, seed=3))
    expected, _ = plain_torch(policy, learner, Square(), [make_examples(6, seed=3)], [LR])
    assert movement(bench.parameters(), expected, start) < 1e-4, "the refused batches left something behind"


def _with_target(example: types.Example, value: float) -> types.Example:
    import dataclasses

    return dataclasses.replace(example, targets=np.full(len(example.response_ids), value))


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_checkpoint_continues_to_the_bit(benches: dict[int, Bench], policy: PolicyConfig, stage: int) -> None:
    """Save after two steps, go on for two; a fresh engine that loads gets to the very same parameters, rates and dropout included."""
    bench = benches[2]
    settings = {"zero_stage": stage, "schedule": {"type": "cosine", "warmup_ratio": 0.5}}
    batches = [make_examples(5, seed=seed) for seed in range(4)]
    directory = bench.output_dir / f"checkpoint-{stage}"
    adapted = policy.model_copy(update={"lora": LoraConfig(rank=4, dropout=0.3)}) if stage in (0, 3) else policy
    bench.become(adapted, settings)
    for batch in batches[:2]:
        bench.step(*batch)
    bench.call("save", directory)
    rest = [bench.step(*batch) for batch in batches[2:]]
    expected = bench.parameters()
    bench.become(adapted, settings)
    bench.call("load", directory)
    bench.call("begin_iteration", 0, 5)
    assert [bench.step(*batch) for batch in batches[2:]] == rest
    for name, value in bench.parameters().items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


def test_checkpoint_of_another_size_is_refused(benches: dict[int, Bench], policy: PolicyConfig, tmp_path: Path) -> None:
    benches[2].become(policy)
    benches[2].call("save", tmp_path / "two")
    benches[1].become(policy)
    with pytest.raises(ConfigError, match=r"placement\.learner\.ranks: 1, but the checkpoint .* was written with 2"):
        benches[1].call("load", tmp_path / "two")
    with pytest.raises(ConfigError, match="no complete checkpoint"):
        benches[1].call("load", tmp_path / "none")


@pytest.mark.parametrize("stage", [2, 3])
def test_lora_trains_probes_and_exports_merged(benches: dict[int, Bench], policy: PolicyConfig, stage: int, tmp_path: Path) -> None:
    """Only the adapter moves, checkpointing recomputes the blocks, and the exported directory is a plain model of the same log-probs."""
    bench = benches[2]
    adapted = policy.model_copy(update={"lora": LoraConfig(rank=4), "gradient_checkpointing": True})
    bench.become(adapted, {"zero_stage": stage, "optimizer": {"lr": 1e-2}})
    start = bench.parameters()
    losses = [bench.step(*make_examples(6, seed=1))["loss"] for _ in range(4)]
    assert losses[-1] < losses[0]
    end = bench.parameters()
    assert {name for name in end if not np.array_equal(end[name], start[name])} == {name for name in end if "lora" in name}
    sequences = [types.TokenSequence(e.prompt_ids[0], e.response_ids[0]) for e in make_examples(8, seed=2)]
    probed = bench.call("probe", sequences)
    bench.call("export", tmp_path / "policy")
    exported = policy.model_copy(update={"path": str(tmp_path / "policy")})
    model = load_model(exported, torch.device("cpu"))
    for sequence, found in zip(sequences, probed, strict=True):
        expected, _ = response_logps(model, [sequence])
        np.testing.assert_allclose(found, expected[0].numpy(), atol=2e-5)
    assert load_tokenizer(exported).convert_ids_to_tokens([5]) == ["w5"]
    assert json.loads((tmp_path / "policy" / "generation_config.json").read_text())["eos_token_id"] == [2, 3]


def test_a_dead_rank_is_the_error_that_surfaces(benches: dict[int, Bench], policy: PolicyConfig) -> None:
    """Rank 1 is killed between two steps: rank 0's broken collective is the consequence, and not what is reported. The last test here."""
    bench = benches[2]
    bench.become(policy)
    bench.step(*make_examples(4))
    ray.kill(bench.ranks[1])
    began = time.monotonic()
    with pytest.raises(ray.exceptions.RayActorError):
        bench.step(*make_examples(4))
    assert time.monotonic() - began < 20
