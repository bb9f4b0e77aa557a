"""Run directories as the driver writes them, in a second: the loop, the judge and the journal are real, the models are fakes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from actors.oracle.actor import OracleActor
from raypref import types
from raypref.config import RunConfig
from raypref.data.examples import ExampleBuilder
from raypref.loop.driver import Driver
from raypref.metrics.writer import MetricsWriter
from raypref.output import directory as output
from raypref.output.summary import RunResult
from raypref.roles import Roles
from raypref.types import RunData
from tests.fakes import FakeLearner, FakePolicy, FakeReference, FakeRollout, prompt

CYCLES = 3
"""Responses of lengths 1, 2, 3 (mod 3) beat each other in a circle."""


def stone_paper_scissors(prompt: str, a: str, b: str) -> float:
    """P(a > b): by length modulo 3 in a circle, 0.8 for the winner."""
    return (0.5, 0.8, 0.2)[(len(a) - len(b)) % CYCLES]


def longer(prompt: str, a: str, b: str) -> float:
    """P(a > b): the longer text wins."""
    return float(1 / (1 + np.exp((len(b) - len(a)) / 3)))


def undecided(prompt: str, a: str, b: str) -> float:
    """P(a > b): always a tie."""
    return 0.5


@dataclass
class Learner(FakeLearner):
    """Its metrics of a step follow from the batch."""

    async def step(self, batch: Sequence[types.Slice]) -> Mapping[str, float]:
        examples = [example for part in batch for example in part.ref[part.start : part.stop]]
        await super().step(batch)
        step = len(self.batches)
        return {
            "loss": 1 / step,
            "tokens": float(sum(len(response) for example in examples for response in example.response_ids)),
            "grad_norm": 2.0,
            "learning_rate": 1e-4,
            "rewards/chosen": 0.1 * step,
            "rewards/rejected": -0.1 * step,
            "rewards/margins": 0.2 * step,
            "rewards/accuracies": 0.75,
            "kl_previous": 0.01 * step,
        }


@dataclass
class Engine(FakeRollout):
    """Responses of different lengths, one token per letter; those of later policies are longer."""

    def _answer(self, request: types.SampleRequest) -> types.Rollout:
        draw = np.random.default_rng(request.seed)
        responses = []
        for _ in range(request.count):
            size = int(draw.integers(1, 7)) + 2 * self.policy.version
            ids = draw.integers(4, 30, size=size).astype(np.int32)
            logprobs = np.full(size, -1.0 - self.policy.value, dtype=np.float32)
            text = "".join(chr(ord("a") + int(token) % 26) for token in ids)
            responses.append(types.Response(ids, logprobs, text, "length" if size == 6 else "stop"))
        return types.Rollout(request.prompt, tuple(responses), self.policy.version, request.origin)


def made_run(
    directory: Path, *, oracle: str = "stone_paper_scissors", prompts: int = 24, held_out: int = 6, finish: bool = True, **sections: Any
) -> RunConfig:
    """A run in ``directory``; its config.

    Args:
        directory: its ``output_dir``.
        oracle: a function of this module.
        prompts, held_out: how many there are.
        finish: whether ``summary.json`` is written, as at the end of a run.
        **sections: of the config.
    """
    values: dict[str, Any] = {
        "name": "made",
        "output_dir": str(directory),
        "policy": {"path": "unused", "dtype": "float32"},
        "oracle": {"type": "callable", "function": f"tests.report.runs:{oracle}", "mode": "pairwise"},
        "loss": {"type": "sppo", "eta": 10.0},
        "selection": {"type": "best_worst"},
        "loop": {"iterations": 3},
        "rollout": {"responses": 3, "max_tokens": 8},
        "learner": {"global_batch": 4},
        "evaluation": {"bootstrap_resamples": 50},
    }
    config = RunConfig.parse(values | sections)
    output.begin(config)
    engine, reference = Engine(FakePolicy()), FakeReference()
    learner = Learner(replicas=[engine.policy, reference.policy])
    assert config.oracle is not None
    judge = OracleActor(
        oracle=config.oracle,
        selection=config.selection,
        loss=config.loss,
        journal_dir=directory / "rollouts",
        name="oracle-0",
        examples=ExampleBuilder(config.loss),
        judging=config.judging,
    )
    data = RunData(prompts=[prompt(k) for k in range(prompts)], held_out=[prompt(k, f"held{k}") for k in range(held_out)])
    roles = Roles(learner=learner, rollout=engine, oracle=judge, reference=reference)  # type: ignore[arg-type]
    driver = Driver(config, roles, data, metrics=MetricsWriter(directory))
    try:
        outcome = asyncio.run(driver.run())
    finally:
        driver.meter.writer.close()
        judge._journal.close()
    if finish:
        RunResult.written(config, outcome, run_s=1.0)
    return config


def lines(directory: Path) -> list[dict[str, Any]]:
    """The metrics of a run."""
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
