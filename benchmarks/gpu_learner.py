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

from actors.learner import passes
from benchmarks.gpu_passes import GIB, Deviation, matmul_tflops, within
from raypref import types
from raypref.sections import LearnerConfig, LoraConfig, PolicyConfig
from raypref.training import fused, logprobs
from raypref.training.packing import Packing
from tests.learner_bench import Host, Square, make_examples, make_policy, movement, plain_torch, run_config

LR = 1e-3
LEARNER = {"micro_batch_tokens": 60, "optimizer": {"lr": LR}, "schedule": {"type": "constant", "warmup_ratio": 0.0}}
STATE_BYTES = 12
"""Of a trained parameter: its master weight and two moments in float32."""


class Bench:
    """One learner rank in this process, with settings that change."""

    def __init__(self, device: str, folder: Path) -> None:
        self.policy = make_policy(folder / "policy")
        self._device = device
        self._folder = folder
        self._rank: Host | None = None

    def become(self, policy: PolicyConfig, **learner: Any) -> Host:
        """A rank with a fresh policy, in its first iteration."""
        config = run_config(policy, LearnerConfig.parse(LEARNER | learner), Square(), self._folder)
        settings: dict[str, Any] = {"config": config, "device": self._device, "rank": 0, "world_size": 1}
        if self._rank is None:
            self._rank = Host(**settings)
            self._rank.start_alone()
        else:
            self._rank.become(settings)
        self._rank.begin_iteration(0, 100)
        return self._rank


@contextmanager
def _bench(device: str) -> Iterator[Bench]:
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
    with _bench(device) as bench:
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
    with _bench(device) as bench, tempfile.TemporaryDirectory() as folder:
        adapted = bench.policy.model_copy(update={"dtype": "bfloat16", "lora": LoraConfig(rank=4), "gradient_checkpointing": True})
        for stage in (1, 2, 3):
            directory = Path(folder) / str(stage)
            rank = bench.become(adapted, zero_stage=stage, optimizer={"lr": 1e-2})
            losses = [rank.step([(0, len(batch))], batch)["loss"] for _ in range(4)]
            if losses[-1] >= losses[0]:
                raise Deviation(f"ZeRO {stage}: the loss goes from {losses[0]:.4g} to {losses[-1]:.4g} in four steps; it must fall")
            rank.save(directory)
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
    with _bench(device) as bench:
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


def speed_prefix_sharing(device: str) -> str:
    """Tokens per second of a Llama of 1.2B parameters, with prefix sharing as ``packing`` decides it for the device."""
    return _speed(device, "prefix_sharing")


def speed_padded(device: str) -> str:
    """The same with one sequence per row."""
    return _speed(device, "padded")


def _speed(device: str, layout: str) -> str:
    """Full training in bfloat16 at ZeRO 2, passes of 16,384 tokens: 32 pairs, prompts of 100 to 900, responses of 200 to 1200 tokens.

    Tokens are counted as if nothing were shared. MFU: 6 operations per parameter and token, over what a large product reaches.
    """
    if layout == "padded":
        passes.packing_of = logprobs.packing_of = lambda model: Packing("padded")
    with _bench(device) as bench, tempfile.TemporaryDirectory() as folder:
        rate = matmul_tflops(device)
        _save_large_model(Path(folder), device)
        large = bench.policy.model_copy(update={"dtype": "bfloat16", "path": folder})
        rank = bench.become(large, zero_stage=2, micro_batch_tokens=16_384, optimizer={"lr": 1e-6})
        examples = _long_pairs(32)
        tokens = sum(len(p) + len(r) for example in examples for p, r in zip(example.prompt_ids, example.response_ids, strict=True))
        for _ in range(2):  # kernels are compiled, and the allocator grows
            rank.step([(0, len(examples))], examples)
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        for _ in range(3):
            rank.step([(0, len(examples))], examples)
        torch.cuda.synchronize()
        duration = (time.perf_counter() - start) / 3
        parameters = sum(value.size for value in rank.parameters().values())
    liger = "with" if fused.available(torch.device(device)) else "without"
    reached = 6e-12 * parameters * tokens / duration
    peak = torch.cuda.max_memory_allocated() / GIB
    return (
        f"{tokens / duration:,.0f} tokens/s {liger} Liger's kernels; {reached:.0f} TFLOP/s, MFU {reached / rate:.2f} of {rate:.0f}; "
        f"peak {peak:.1f} GiB; {parameters / 1e9:.2f}B parameters"
    )


def _save_large_model(directory: Path, device: str) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8}
    config = LlamaConfig(vocab_size=128_256, **shape, max_position_embeddings=8192, tie_word_embeddings=True, eos_token_id=2)
    torch.manual_seed(0)
    with torch.device(device):
        model = LlamaForCausalLM(config).bfloat16()
    model.save_pretrained(directory)
    del model
    torch.cuda.empty_cache()


def _long_pairs(count: int) -> tuple[types.Example, ...]:
    rng = np.random.default_rng(0)

    def tokens(least: int, most: int) -> np.ndarray:
        return rng.integers(3, 128_000, int(rng.integers(least, most))).astype(np.int32)

    examples = []
    for index in range(count):
        prompt, responses = tokens(100, 900), (tokens(200, 1200), tokens(200, 1200))
        previous = np.array([-11.8 * len(response) for response in responses])
        examples.append(
            types.Example(
                prompt_index=index,
                prompt_id=str(index),
                prompt_ids=(prompt,) * 2,
                response_ids=responses,
                targets=np.zeros(2),
                policy_version=0,
                previous_logps=previous,
            )
        )
    return tuple(examples)
