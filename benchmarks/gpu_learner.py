"""Checks of ``benchmarks.gpu`` that run a learner rank. Each returns what it measured, or raises ``Deviation``."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from actors.policy_model import load_model
from benchmarks.gpu_passes import Deviation, within
from raypref import types
from raypref.sections import LearnerConfig, LoraConfig, PolicyConfig
from tests.learner_bench import Host, Square, make_examples, make_policy, movement, plain_torch, run_config

LR = 1e-3
LEARNER = {"micro_batch_tokens": 60, "optimizer": {"lr": LR}, "schedule": {"type": "constant", "warmup_ratio": 0.0}}
STATE_BYTES = 12
"""Of a trained parameter: its master weight and two moments in float32."""
FROZEN_KL = 1e-3
"""Nats per response: rounding, where two equal policies are compared."""


class Bench:
    """One learner rank in this process, with settings that change."""

    def __init__(self, device: str, folder: Path) -> None:
        self.policy = make_policy(folder / "policy")
        self._device = device
        self._folder = folder
        self._rank: Host | None = None

    def become(self, policy: PolicyConfig, coefficient: float = 0.0, **learner: Any) -> Host:
        """A rank with a fresh policy, in its first iteration; ``coefficient``: of the regulariser, 0 for none."""
        config = run_config(policy, LearnerConfig.parse(LEARNER | learner), Square(), self._folder, coefficient=coefficient)
        settings: dict[str, Any] = {"config": config, "device": self._device, "rank": 0, "world_size": 1}
        if self._rank is None:
            self._rank = Host(**settings)
            self._rank.start_alone()
        else:
            self._rank.become(settings)
        self._rank.begin_iteration(0, 100)
        return self._rank


@contextmanager
def rank_bench(device: str) -> Iterator[Bench]:
    """A bench whose process group ends with the block."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            yield Bench(device, Path(folder))
        finally:
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()


def learner_float32(device: str) -> str:
    """Three steps at each ZeRO stage against plain torch on a CPU, relative to how far training moved the parameters."""
    return _steps(device, "float32", (0, 1, 2, 3), 1e-4)


def learner_bfloat16(device: str) -> str:
    """The same in bfloat16, up to its rounding."""
    return _steps(device, "bfloat16", (1, 2, 3), 0.25)


def _steps(device: str, dtype: Literal["float32", "bfloat16"], stages: Sequence[int], bound: float) -> str:
    batches = [make_examples(9, seed=seed) for seed in range(3)]
    results = []
    with rank_bench(device) as bench:
        expected, _ = plain_torch(bench.policy, LearnerConfig.parse(LEARNER), Square(), batches, [LR] * len(batches))
        for stage in stages:
            rank = bench.become(bench.policy.model_copy(update={"dtype": dtype}), zero_stage=stage)
            start = rank.parameters()
            for batch in batches:
                rank.step([(0, len(batch))], batch)
            results.append(within(f"ZeRO {stage}:", movement(rank.parameters(), expected, start), bound))
    return ", ".join(results)


def adapter_and_checkpoint(device: str) -> str:
    """LoRA with gradient checkpointing in bfloat16: the loss falls, and a loaded checkpoint has the same log-probs to the bit."""
    batch = make_examples(8)
    sequences = [types.TokenSequence(example.prompt_ids[0], example.response_ids[0]) for example in batch]
    with rank_bench(device) as bench, tempfile.TemporaryDirectory() as folder:
        adapted = bench.policy.model_copy(update={"dtype": "bfloat16", "lora": LoraConfig(rank=4), "gradient_checkpointing": True})
        for stage in (1, 2, 3):
            directory = Path(folder) / str(stage)
            rank = bench.become(adapted, zero_stage=stage, optimizer={"lr": 1e-2})
            losses = [rank.step([(0, len(batch))], batch)["loss"] for _ in range(4)]
            if losses[-1] >= losses[0]:
                raise Deviation(f"ZeRO {stage}: the loss goes from {losses[0]:.4g} to {losses[-1]:.4g} in four steps; it must fall")
            rank.save(directory)
            while not rank.saved():
                time.sleep(0.01)
            expected = rank.probe(sequences)
            rank = bench.become(adapted, zero_stage=stage, optimizer={"lr": 1e-2})
            rank.load(directory)
            if not all(np.array_equal(a, b) for a, b in zip(rank.probe(sequences), expected, strict=True)):
                raise Deviation(f"ZeRO {stage}: log-probs after loading differ from those before saving")
    return "ZeRO 1, 2, 3: the loss falls; log-probs after loading are equal to the bit"


def offloading(device: str) -> str:
    """The optimiser's state leaves the GPU and comes back, and training goes on."""
    batch = make_examples(9)
    results = []
    with rank_bench(device) as bench:
        for stage in (2, 3):
            rank = bench.become(bench.policy.model_copy(update={"dtype": "bfloat16"}), zero_stage=stage)
            first = rank.step([(0, len(batch))], batch)["loss"]
            before = torch.cuda.memory_allocated()
            rank.offload()
            away = torch.cuda.memory_allocated()
            rank.reload()
            states = STATE_BYTES * sum(value.size for value in rank.parameters().values())
            back = torch.cuda.memory_allocated()
            if device != "cpu" and min(before, back) - away < states:
                raise Deviation(f"ZeRO {stage}: {before}, {away}, {back} bytes before, between and after; the state has {states}")
            if rank.step([(0, len(batch))], batch)["loss"] >= first:
                raise Deviation(f"ZeRO {stage}: the loss does not fall after the state came back")
            results.append(f"ZeRO {stage}: {(before - away) / 1024:.0f} KiB of at least {states / 1024:.0f} leave")
    return ", ".join(results) if device != "cpu" else "nothing moves on a CPU; training goes on"


def frozen_copy_and_export(device: str) -> str:
    """With the regulariser's frozen copy of pi_ref the KL is 0 at first and grows; the exported policy is the rank's, to the bit.

    A KL of bfloat16 log-probs is at most rounding away from 0 where the two policies are the same.
    """
    batch = make_examples(9)
    results = []
    with rank_bench(device) as bench, tempfile.TemporaryDirectory() as folder:
        half = bench.policy.model_copy(update={"dtype": "bfloat16"})
        for stage in (2, 3):
            rank = bench.become(half, coefficient=0.1, zero_stage=stage, optimizer={"lr": 1e-2})
            rank.regularise(*(_rollout(example) for example in batch))
            values = [rank.step([(0, len(batch))], batch)["regulariser/kl"] for _ in range(3)]
            if not abs(values[0]) <= FROZEN_KL < values[-1]:
                raise Deviation(
                    f"ZeRO {stage}: the KL to pi_ref goes from {values[0]:.3g} to {values[-1]:.3g}; it must start at 0 and grow"
                )
            directory = Path(folder) / str(stage)
            rank.export(directory)
            expected = rank.parameters()
            exported: Any = load_model(half.model_copy(update={"path": str(directory)}), torch.device("cpu"))
            for name, parameter in exported.named_parameters():
                if not np.array_equal(parameter.detach().float().numpy(), expected[name]):
                    raise Deviation(f"ZeRO {stage}: {name} was exported with other values than the rank has")
            results.append(f"ZeRO {stage}: KL {values[0]:.1e}, after two steps {values[-1]:.2g}")
    return f"{', '.join(results)}; exported to the bit"


def _rollout(example: types.Example) -> types.Rollout:
    prompt = types.Prompt(example.prompt_index, example.prompt_id, "", example.prompt_ids[0])
    responses = [types.Response(ids, np.zeros(len(ids), dtype=np.float32), "", "stop") for ids in example.response_ids]
    return types.Rollout(prompt, tuple(responses), 0)
