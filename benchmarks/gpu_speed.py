"""Checks of ``benchmarks.gpu`` that measure: a learner rank, an engine, a weight sync, one iteration. Random models in bfloat16 on a GPU.

On a CPU the last three run with a tiny model, so that they are known to work before a GPU is there.
"""

from __future__ import annotations

import gc
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from actors.learner import passes
from benchmarks.gpu_learner import rank_bench
from benchmarks.gpu_models import model_config, save_model
from benchmarks.gpu_passes import GIB, Deviation, matmul_tflops
from raypref import types
from raypref.plan.learner_memory import learner_memory
from raypref.plan.memory_job import Job
from raypref.plan.model_shape import ModelShape
from raypref.sections import LearnerConfig, RolloutConfig
from raypref.training import fused, logprobs
from raypref.training.packing import Packing
from tests.learner_bench import Host, Square, run_config

ROOT = Path(__file__).resolve().parent.parent
MICRO_BATCH_TOKENS = 16_384
MEMORY_BOUNDS = (0.6, 1.1)
"""Of the measured peak, in multiples of the memory model's, which leaves some allocations out and counts others that never coincide."""


def speed_prefix_sharing(device: str) -> str:
    """Tokens per second of a Llama of 1.2B parameters, with prefix sharing as ``packing`` decides it for the device."""
    return _speed(device, "1.2b")


def speed_padded(device: str) -> str:
    """The same with one sequence per row."""
    return _speed(device, "1.2b", padded=True)


def speed_0_5b(device: str) -> str:
    """The same as ``speed_prefix_sharing`` for a model of Qwen2.5-0.5B's shape."""
    return _speed(device, "0.5b")


def speed_1_5b(device: str) -> str:
    """The same for one of Qwen2.5-1.5B's shape."""
    return _speed(device, "1.5b")


def _speed(device: str, size: str, *, padded: bool = False) -> str:
    """Full training in bfloat16 at ZeRO 2, passes of 16,384 tokens: 32 pairs, prompts of 100 to 900, responses of 200 to 1200 tokens.

    Tokens are counted as if nothing were shared. MFU: 6 operations per parameter and token, over what a large product reaches.
    """
    if padded:
        passes.packing_of = logprobs.packing_of = lambda model: Packing("padded")
    with rank_bench(device) as bench, tempfile.TemporaryDirectory() as folder:
        rate = matmul_tflops(device)
        save_model(Path(folder), size, device)
        large = bench.policy.model_copy(update={"dtype": "bfloat16", "path": folder})
        rank = bench.become(large, zero_stage=2, micro_batch_tokens=MICRO_BATCH_TOKENS, optimizer={"lr": 1e-6})
        examples = _long_pairs(32)
        tokens = sum(len(p) + len(r) for example in examples for p, r in zip(example.prompt_ids, example.response_ids, strict=True))
        duration = _seconds_per_step(rank, examples, 3)
        parameters = sum(value.size for value in rank.parameters().values())
    liger = "with" if fused.available(torch.device(device)) else "without"
    reached = 6e-12 * parameters * tokens / duration
    peak = torch.cuda.max_memory_allocated() / GIB
    return (
        f"{tokens / duration:,.0f} tokens/s {liger} Liger's kernels; {reached:.0f} TFLOP/s, MFU {reached / rate:.2f} of {rate:.0f}; "
        f"peak {peak:.1f} GiB; {parameters / 1e9:.2f}B parameters"
    )


def _seconds_per_step(rank: Host, examples: tuple[types.Example, ...], steps: int) -> float:
    """After two steps in which kernels are compiled and the allocator grows; the peak of memory counts from there."""
    for _ in range(2):
        rank.step([(0, len(examples))], examples)
    gc.collect()  # the rank before this one, whose parts refer to each other
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    for _ in range(steps):
        rank.step([(0, len(examples))], examples)
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / steps


def learner_memory_peaks(device: str) -> str:
    """The largest memory of training steps at 0.5B against the memory model's: ZeRO 1, 2 and 3, with and without gradient checkpointing."""
    results = []
    with rank_bench(device) as bench, tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder), "0.5b", device)
        shape = ModelShape.of(model_config("0.5b"))
        for stage, checkpointing in ((1, False), (2, False), (2, True), (3, True)):
            changed = {"dtype": "bfloat16", "path": folder, "gradient_checkpointing": checkpointing}
            policy = bench.policy.model_copy(update=changed)
            learner: dict[str, Any] = {"zero_stage": stage, "micro_batch_tokens": MICRO_BATCH_TOKENS, "optimizer": {"lr": 1e-6}}
            rank = bench.become(policy, **learner)
            _seconds_per_step(rank, _long_pairs(16), 1)
            measured = torch.cuda.max_memory_allocated() / GIB
            config = run_config(policy, LearnerConfig.parse(learner), Square(), Path(folder))
            modelled = learner_memory(Job.of(config, shape), "train").gpu_bytes / GIB
            what = f"ZeRO {stage}{' with checkpointing' if checkpointing else ''}: {measured:.1f} of {modelled:.1f} GiB"
            if not MEMORY_BOUNDS[0] * modelled <= measured <= MEMORY_BOUNDS[1] * modelled:
                raise Deviation(f"{what} in the memory model; expected {MEMORY_BOUNDS[0]:g} to {MEMORY_BOUNDS[1]:g} of it")
            results.append(what)
    return ", ".join(results)


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


def rollout_speed(device: str) -> str:
    """Tokens per second of an engine with CUDA graphs at 0.5B: 256 prompts of 200 tokens, 4 responses each, at most 256 tokens."""
    from tests.gpu.one_engine import OneEngine

    gpu = device != "cpu"
    prompts, tokens = (256, 256) if gpu else (4, 16)
    limits = RolloutConfig(max_num_seqs=4 * prompts, gpu_memory_utilization=0.4, kv_cache_gib=16.0 if gpu else 0.05)
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder), "0.5b" if gpu else "tiny", device)
        with OneEngine(device, Path(folder), limits=limits) as bench:
            metrics = bench.sync()
            rng = np.random.default_rng(0)
            asked = [types.Prompt(k, f"p{k}", "", rng.integers(3, 500, 200).astype(np.int32)) for k in range(prompts)]
            rates = []
            for seed in range(2):  # the first warms up
                start = time.perf_counter()
                count = bench.sample([types.SampleRequest(prompt, 4, seed, 1.0, 1.0, tokens, bench.version) for prompt in asked])
                rates.append(count / (time.perf_counter() - start))
    return f"{rates[-1]:,.0f} tokens/s (first {rates[0]:,.0f}); log-probs differ by {metrics['sync/logprob_difference_mean']:.1e} nats"


def sync_speed(device: str) -> str:
    """GB per second of whole syncs at 1.5B, from the learner's stand-in to an engine on the same device, both sides' checksums included."""
    from tests.gpu.one_engine import OneEngine

    gpu = device != "cpu"
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder), "1.5b" if gpu else "tiny", device)
        limits = RolloutConfig(max_num_seqs=8, gpu_memory_utilization=0.3, kv_cache_gib=0.25, enforce_eager=True)
        with OneEngine(device, Path(folder), limits=limits) as bench:
            size = bench.parameters() * (2 if gpu else 4)
            seconds = []
            for _ in range(4):
                start = time.perf_counter()
                sent = bench.send()
                seconds.append(time.perf_counter() - start)
            bench.check(sent)
    best = min(seconds[1:])
    return f"{size / best / 1e9:.3g} GB/s: {size / 1e9:.3g} GB in {best:.3f} s (the first time {seconds[0]:.2f} s)"


def iteration_speed(device: str) -> str:
    """One iteration of examples/one_gpu with a random model of the same shape, and evaluation: engine and learner asleep in turn."""
    import raypref

    gpu = device != "cpu"
    prompts = 512 if gpu else 8
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_model(folder / "policy", "0.5b" if gpu else "tiny", device)
        write_prompts(folder / "prompts.jsonl", prompts + 8)
        result = raypref.run(raypref.load_config(ROOT / "examples" / "one_gpu" / "run.yaml", one_gpu_overrides(folder, device, prompts)))
        lines = [json.loads(line) for line in (result.output_dir / "metrics.jsonl").read_text().splitlines()]
    times = {key: value for line in lines for key, value in line.items() if key.startswith("time/")}
    stages = ", ".join(f"{key.removeprefix('time/').removesuffix('_s')} {value:.1f}" for key, value in times.items())
    return f"{prompts} prompts, 5 responses each; seconds: {stages}"


def one_gpu_overrides(folder: Path, device: str, prompts: int) -> Sequence[str]:
    """What makes examples/one_gpu run on a random model, on prompts of words, without a hub; a CPU's tiny model gets short responses."""
    cpu = [
        "placement.device=cpu",
        "policy.dtype=float32",
        "policy.max_context_tokens=256",
        "rollout.max_tokens=16",
        "rollout.kv_cache_gib=0.05",
    ]
    return [
        f"output_dir={folder / 'run'}",
        f"policy.path={folder / 'policy'}",
        f"data.path={folder / 'prompts.jsonl'}",
        "data.held_out=null",
        "data.held_out_prompts=8",
        "data.chat_template=false",
        "loop.iterations=1",
        f"loop.prompts_per_iteration={prompts}",
        "oracle.type=callable",
        "oracle.function=benchmarks.different_words:preferences",
        *(cpu if device == "cpu" else ["rollout.max_tokens=512"]),
        *(["learner.global_batch=4"] if device == "cpu" else []),
    ]


def write_prompts(path: Path, count: int) -> None:
    """Prompts of 20 words of the tiny model's vocabulary."""
    words = np.random.default_rng(0).integers(3, 500, (count, 20))
    path.write_text("".join(json.dumps({"prompt": " ".join(f"w{w}" for w in row)}) + "\n" for row in words))
