"""What the learner's tests share: a tiny policy, random examples, a stand-in loss, and the same training in plain torch.

Ray is imported by ``Bench`` alone, so that the rest works where it is not installed.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from actors.learner.deepspeed_setup import learner_env
from actors.learner.rank import LearnerRank
from actors.policy_model import load_model
from raypref import types
from raypref.config import RunConfig
from raypref.losses.base import Frozen, Loss, LossBatch, LossValue
from raypref.sections import LearnerConfig, LoopConfig, PolicyConfig, RegulariserConfig
from raypref.training import collation
from raypref.training.logprobs import response_logps

VOCABULARY = 64
LR = 1e-3
BASE: dict[str, Any] = {
    "micro_batch_tokens": 60,
    "max_grad_norm": 0.5,
    "timeout_s": 60.0,
    "optimizer": {"lr": LR, "weight_decay": 0.1},
    "schedule": {"type": "constant", "warmup_ratio": 0.0},
}


class Host(LearnerRank):
    """A rank that can become one of other settings, in the same process group."""

    def start_alone(self) -> None:
        """Start as the only rank, without Ray, which otherwise tells the address of this machine."""
        self._store = torch.distributed.TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False)
        self.start(f"127.0.0.1:{self._store.port}")

    def become(self, settings: dict[str, Any]) -> None:
        self.close()
        super().__init__(**settings)
        self.start(None)

    def save_at_once(self, directory: Path) -> None:
        """Save as with ``checkpoint.background: false``."""
        self._writer.background = False
        self.save(directory / "learner", directory / "policy")
        self._writer.background = True

    def parameters(self) -> dict[str, np.ndarray]:
        """The whole parameters by name."""
        import deepspeed

        named = list(self._engine.module.named_parameters())
        gathered = deepspeed.zero.GatheredParameters([p for _, p in named], modifier_rank=None, enabled=self._config.zero_stage == 3)
        with gathered:
            return {name: parameter.detach().float().cpu().numpy().copy() for name, parameter in named}

    def master_state(self) -> dict[str, np.ndarray]:
        """The whole float32 weight of each trained parameter and AdamW's two moments, by name and kind. A collective; not at stage 0."""
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        found = {}
        for name, parameter in self._engine.module.named_parameters():
            if parameter.requires_grad:
                found[f"{name} float32"] = safe_get_full_fp32_param(parameter).cpu().numpy().copy()
                for kind in ("exp_avg", "exp_avg_sq"):
                    found[f"{name} {kind}"] = safe_get_full_optimizer_state(parameter, kind).cpu().numpy().copy()
        return found


def run_config(policy: PolicyConfig, learner: LearnerConfig, loss: Loss, output_dir: Path, *, coefficient: float = 0.0) -> RunConfig:
    """The config of a run of two iterations; ``coefficient``: of the regulariser, 0 for none."""
    regulariser = {"type": "token_kl", "coefficient": coefficient} if coefficient else {}
    loop = LoopConfig(iterations=2)
    sections: dict[str, Any] = {"policy": policy, "learner": learner, "loss": loss, "loop": loop}
    return RunConfig(**sections, regulariser=RegulariserConfig.parse(regulariser), output_dir=output_dir)


class Square(Loss):
    """sum over the example's sequences of (lp - lp_old - target)^2 / 100: convex in the log-probs, and per example."""

    type: str = "tests.learner_bench:Square"
    needs: ClassVar[frozenset[Frozen]] = frozenset({"previous"})

    def __call__(self, batch: LossBatch) -> LossValue:
        assert batch.previous_logps is not None
        error = batch.logps - batch.previous_logps - batch.targets
        return LossValue((error.square() * batch.mask).sum(-1) / 100, {"loss/error": error.detach().sum(-1)})


class TokenNegative(Loss):
    """- sum of lp, averaged over tokens."""

    type: str = "tests.learner_bench:TokenNegative"
    reduction: ClassVar[Literal["examples", "tokens"]] = "tokens"

    def __call__(self, batch: LossBatch) -> LossValue:
        return LossValue(-batch.logps.sum(-1), {})


class Bench:
    """A learner group whose settings change; calls are made as the driver makes them, ``start`` first."""

    def __init__(self, world_size: int, policy: PolicyConfig, output_dir: Path, env: Mapping[str, str] | None = None) -> None:
        import ray

        from actors.learner.group import LearnerGroup

        self.output_dir = output_dir
        self.ranks = [
            ray.remote(Host)
            .options(num_cpus=0, runtime_env={"env_vars": learner_env("cpu", 1) | dict(env or {})})
            .remote(**self._settings(policy, k, world_size, {}))
            for k in range(world_size)
        ]
        self.group = LearnerGroup(self.ranks, timeout_s=90.0)

    def _settings(self, policy: PolicyConfig, rank: int, world_size: int, learner: dict[str, Any], **other: Any) -> dict[str, Any]:
        arguments: dict[str, Any] = {"loss": Square(), "output_dir": self.output_dir} | other
        config = run_config(policy, LearnerConfig.parse(BASE | learner), **arguments)
        return {"config": config, "device": "cpu", "rank": rank, "world_size": world_size}

    def become(self, policy: PolicyConfig, learner: dict[str, Any] | None = None, **other: Any) -> LearnerConfig:
        """New settings, a fresh policy, and the first iteration begun."""
        import ray

        world_size = len(self.ranks)
        settings = [self._settings(policy, k, world_size, learner or {}, **other) for k in range(world_size)]
        ray.get([rank.become.remote(own) for rank, own in zip(self.ranks, settings, strict=True)], timeout=90)
        self.call("begin_iteration", 0, 5)
        config: RunConfig = settings[0]["config"]
        return config.learner

    def call(self, method: str, *arguments: Any) -> Any:
        return asyncio.run(getattr(self.group, method)(*arguments))

    def step(self, *batch: types.Example) -> dict[str, float]:
        """The batch in two slices, the second of which is a part of a larger tuple."""
        import ray

        half = len(batch) // 2
        first, second = ray.put(batch[:half]), ray.put((batch[0], *batch[half:]))
        return self.call("step", [types.Slice(first, 0, half), types.Slice(second, 1, 1 + len(batch) - half)])

    def until_saved(self) -> None:
        """Wait for what ``save`` began to write."""
        while not self.call("saved"):
            time.sleep(0.01)

    def parameters(self) -> dict[str, np.ndarray]:
        """Rank 0's; all ranks agree to the bit."""
        import ray

        found = ray.get([rank.parameters.remote() for rank in self.ranks], timeout=60)
        for other in found[1:]:
            for name, value in found[0].items():
                np.testing.assert_array_equal(other[name], value)
        return found[0]

    def master_state(self) -> dict[str, np.ndarray]:
        """See ``Host.master_state``; all ranks agree."""
        import ray

        return ray.get([rank.master_state.remote() for rank in self.ranks], timeout=60)[0]

    def close(self) -> None:
        """End the ranks' processes."""
        import ray

        for rank in self.ranks:
            ray.kill(rank)


class Benches(dict[int, Bench]):
    """Groups of one rank and of two, by size. One that a test has taken out, to break it, is started anew for the next test."""

    def __init__(self, policy: PolicyConfig, directory: Path) -> None:
        super().__init__()
        self._policy, self._directory = policy, directory
        self.update({world_size: self._create(world_size) for world_size in (1, 2)})
        for bench in self.values():
            bench.call("start")

    def __missing__(self, world_size: int) -> Bench:
        self[world_size] = bench = self._create(world_size)
        bench.call("start")
        return bench

    def _create(self, world_size: int) -> Bench:
        output_dir = self._directory / f"ranks-{world_size}-{uuid.uuid4().hex[:8]}"
        output_dir.mkdir()
        return Bench(world_size, self._policy, output_dir)

    def close(self) -> None:
        for bench in self.values():
            bench.close()


def make_policy(directory: Path, *, tied: bool = True) -> PolicyConfig:
    """A random Llama of 2 layers and width 32 with a tokenizer, in float32, saved in ``directory``."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=1,
        max_position_embeddings=128,
        tie_word_embeddings=tied,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.1,
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(eos_token_id=[2, 3])
    model.save_pretrained(directory)
    words = Tokenizer(models.WordLevel({f"w{k}": k for k in range(VOCABULARY)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w2").save_pretrained(directory)
    return PolicyConfig(path=str(directory), dtype="float32")


def make_examples(count: int, *, seed: int = 0, most_sequences: int = 3, scale: float = 1.0) -> tuple[types.Example, ...]:
    """Examples of one to ``most_sequences`` sequences, of 1 to 12 prompt and 1 to 9 response tokens, with targets of size ``scale``."""
    rng = np.random.default_rng(seed)

    def tokens(most: int) -> np.ndarray:
        return rng.integers(4, VOCABULARY, rng.integers(1, most + 1)).astype(np.int32)

    examples = []
    for index in range(count):
        size = int(rng.integers(1, most_sequences + 1))
        responses = tuple(tokens(9) for _ in range(size))
        examples.append(
            types.Example(
                prompt_index=index,
                prompt_id=f"p{index}",
                prompt_ids=(tokens(12),) * size,
                response_ids=responses,
                targets=scale * rng.normal(size=size),
                policy_version=0,
                previous_logps=np.array([-4.2 * len(response) for response in responses]),
                sampled_logps=np.array([-4.0 * len(response) for response in responses]),
            )
        )
    return tuple(examples)


def plain_torch(
    policy: PolicyConfig, learner: LearnerConfig, loss: Loss, batches: list[tuple[types.Example, ...]], rates: list[float]
) -> tuple[dict[str, np.ndarray], list[float]]:
    """The same training without DeepSpeed, micro-batches or padding: one sequence a forward pass, one torch optimiser.

    Returns:
        the parameters by name, and the gradient norms before clipping.
    """
    model: Any = load_model(policy, torch.device("cpu"), trainable=True)
    settings = learner.optimizer
    shared: dict[str, Any] = {"lr": settings.lr, "eps": settings.eps, "weight_decay": settings.weight_decay}
    optimizer: torch.optim.Optimizer
    if settings.type == "adamw":
        optimizer = torch.optim.AdamW(model.parameters(), betas=(settings.beta1, settings.beta2), **shared)
    else:
        optimizer = torch.optim.RMSprop(model.parameters(), alpha=settings.beta2, **shared)
    norms = []
    for batch, rate in zip(batches, rates, strict=True):
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        values = [_example_loss(model, loss, example) for example in batch]
        tokens = sum(len(response) for example in batch for response in example.response_ids)
        (torch.stack(values).sum() / (len(batch) if loss.reduction == "examples" else tokens)).backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), learner.max_grad_norm or float("inf"))))
        optimizer.step()
    return {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}, norms


def _example_loss(model: Any, loss: Loss, example: types.Example) -> torch.Tensor:
    logps = [response_logps(model, [sequence])[0].double().sum() for sequence in collation.sequences([example])]

    def row(values: Any) -> torch.Tensor:
        return torch.as_tensor(np.array(values, dtype=np.float64))[None]

    lengths = [len(response) for response in example.response_ids]
    batch = LossBatch(
        logps=torch.stack(logps)[None],
        reference_logps=None,
        previous_logps=row(example.previous_logps),
        targets=row(example.targets),
        lengths=row(lengths),
        mask=torch.ones(1, len(logps), dtype=torch.bool),
    )
    return loss(batch).loss[0]


def movement(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], start: dict[str, np.ndarray]) -> float:
    """How far two results are apart, relative to how far training moved the parameters."""

    def distance(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> float:
        return float(np.sqrt(sum(np.square(a[name].astype(np.float64) - b[name]).sum() for name in b)))

    return distance(found, expected) / distance(expected, start)
