"""What streaming costs: tokens per second through our rollout actor, over those of bare ``vllm.LLM.generate`` with the same settings and
prompts.

Both engines are in Ray actors with one thread, and take turns.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.figure import Figure
from raypref.sections import PolicyConfig, RolloutConfig
from raypref.types import Prompt, SampleRequest

PROMPTS = 64
RESPONSES = 5
TOKENS = 48
SAMPLES = 11


def main(arguments: Sequence[str]) -> int:
    import ray

    from examples.quickstart.base_policy import prepare

    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        try:
            pairs = asyncio.run(_measure(Path(folder) / "init"))
        finally:
            ray.shutdown()
    ours, bare = (median(side) for side in zip(*pairs, strict=True))
    unit = f"tokens per second ({ours:.0f}) over those of bare vLLM ({bare:.0f}); the median of the turns' ratios"
    Figure("rollout", median(a / b for a, b in pairs), 0.97, unit, SAMPLES).show()
    return 0


class Bare:
    """vLLM as in its documentation."""

    def __init__(self, policy: PolicyConfig, rollout: RolloutConfig) -> None:
        from actors.policy_model import end_token_ids
        from actors.rollout.engine import Engine

        self._llm = Engine(policy, rollout)._llm
        self._end_tokens = list(end_token_ids(policy))

    def alive(self) -> None:
        """Returns once the engine is up."""

    def generate(self, prompts: list[list[int]], seeds: list[int]) -> int:
        """Number of sampled tokens."""
        from vllm import SamplingParams

        common: dict[str, Any] = {"n": RESPONSES, "max_tokens": TOKENS, "logprobs": 0, "flat_logprobs": True, "detokenize": False}
        params = [SamplingParams(seed=seed, stop_token_ids=self._end_tokens, **common) for seed in seeds]
        outputs = self._llm.generate([{"prompt_token_ids": ids} for ids in prompts], params, use_tqdm=False)
        return sum(len(sample.token_ids) for output in outputs for sample in output.outputs)


async def _measure(model: Path) -> list[tuple[float, float]]:
    """Tokens per second of each turn: ours, bare vLLM's. The weights are random, and the same on both sides."""
    import ray

    from actors.rollout.actor import RolloutActor
    from actors.rollout.engine import engine_env
    from actors.rollout.group import RolloutGroup

    policy, rollout = PolicyConfig(path=str(model), dtype="float32"), RolloutConfig(max_tokens=TOKENS)
    env = {"runtime_env": {"env_vars": engine_env("cpu", 1)}, "num_cpus": 1}
    actor = ray.remote(RolloutActor).options(max_concurrency=4, **env).remote(policy, rollout)
    bare = ray.remote(Bare).options(**env).remote(policy, rollout)
    await actor.update_weight_version.remote("0")
    await bare.alive.remote()
    group = RolloutGroup([("rollout-0", actor)], timeout_s=600)
    draw = np.random.default_rng(0)
    prompts = [Prompt(k, str(k), "", draw.integers(2, 256, 16).astype(np.int32)) for k in range(PROMPTS)]
    requests = [SampleRequest(p, RESPONSES, p.index, 1.0, 1.0, TOKENS, 0) for p in prompts]

    async def through_ours() -> float:
        before, start = group.sampled_tokens, time.monotonic()
        await asyncio.gather(*(group.sample(request) for request in requests))
        return (group.sampled_tokens - before) / (time.monotonic() - start)

    async def through_bare() -> float:
        start = time.monotonic()
        tokens = await bare.generate.remote([p.token_ids.tolist() for p in prompts], [p.index for p in prompts])
        return tokens / (time.monotonic() - start)

    pairs = [(await through_ours(), await through_bare()) for _ in range(SAMPLES + 1)][1:]
    await group.close()
    return pairs
