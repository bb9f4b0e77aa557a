"""Whole runs of tiny models: their configs, and what was sampled and trained on in them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import raypref
from raypref import types
from raypref.config import RunConfig
from raypref.metrics.progress import Callback

PROMPTS = [f"w{k} w{k + 1} w{k + 2}" for k in range(20)]
INPO_PROMPTS = [f"w{k} w{k + 1} w{k + 2}" for k in range(36)]


def more_different_words(prompts: list[str], responses: list[list[str]]) -> list[NDArray[np.float64]]:
    """Prefers responses with more different words: P = sigmoid(difference / 2)."""
    scores = [np.array([len(set(text.split())) for text in group], dtype=np.float64) for group in responses]
    return [1 / (1 + np.exp(-(counts[:, None] - counts[None, :]) / 2)) for counts in scores]


def config_for(model: Path, output_dir: Path, **sections: Any) -> RunConfig:
    """SPPO on sampled responses, two iterations, every role in a bundle of its own; ``sections`` replace these."""
    values: dict[str, Any] = {
        "output_dir": str(output_dir),
        "policy": {"path": str(model), "dtype": "float32"},
        "data": {"chat_template": False, "held_out_prompts": 4},
        "loop": {"iterations": 2},
        "rollout": {"responses": 4, "max_tokens": 12, "max_num_seqs": 32, "kv_cache_gib": 0.05},
        "selection": {"type": "best_worst"},
        "loss": {"type": "sppo", "eta": 5.0},
        "learner": {"global_batch": 4, "optimizer": {"lr": 1e-3}, "timeout_s": 120},
        "placement": {"device": "cpu", "oracle": {"gpus": 0}},
        "evaluation": {"bootstrap_resamples": 200},
    }
    return RunConfig.parse(values | sections)


def given_config(model: Path, directory: Path, **sections: Any) -> RunConfig:
    """One iteration on the given pairs of ``write_pairs``."""
    data = {"type": "preferences", "path": str(write_pairs(directory / "pairs.jsonl")), "chat_template": False, "held_out_prompts": 4}
    return config_for(model, directory / "run", **{"data": data, "selection": None, "loop": {"iterations": 1}} | sections)


def inpo_config(model: Path, output_dir: Path, *, overlap: bool = True) -> RunConfig:
    """INPO on ``INPO_PROMPTS``, overlapped or one stage after another."""
    return config_for(
        model,
        output_dir,
        loss={"type": "inpo"},
        rollout={"responses": 8, "max_tokens": 12, "max_num_seqs": 32, "kv_cache_gib": 0.05},
        selection={"type": "tournament"},
        loop={"iterations": 2, "prompts_per_iteration": 16, "window_groups": 6, "overlap": overlap},
        placement={
            "device": "cpu",
            "learner": {"ranks": 2, "cpus": 0.5},
            "rollout": {"engines": 2, "cpus": 0.5},
            "reference": {"gpus": 0, "cpus": 0.5},
            "oracle": {"gpus": 0},
        },
    )


def write_pairs(path: Path, count: int = 28) -> Path:
    """Pairs of which the better answer says w50, in the layout of UltraFeedback-binarized."""
    words = np.random.default_rng(0).integers(0, 40, (count, 6))
    records = [
        {
            "prompt": " ".join(f"w{w}" for w in row[:3]),
            "chosen": " ".join([" w50"] * 3),
            "rejected": " ".join(f" w{w}" for w in row[3:]),
        }
        for row in words
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def metric_values(result: raypref.RunResult, name: str) -> list[float]:
    """A metric's values, in the order of the steps."""
    lines = [json.loads(line) for line in (result.output_dir / "metrics.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if line.get(name) is not None]


class Order(Callback):
    """What happened, in order: "group" (one is judged) or "step"."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def on_group(self, verdict: types.Verdict) -> None:
        self.events.append("group")

    def on_step(self, step: int, metrics: Mapping[str, float]) -> None:
        self.events.append("step")


@dataclass(frozen=True, slots=True)
class RecordedRun:
    """A finished run, with what the driver asked of the engines and of the learner."""

    config: RunConfig
    result: raypref.RunResult
    requests: list[types.SampleRequest]
    """In the order in which they were sent."""
    batches: list[tuple[types.Example, ...]]
    """What each step was taken on."""
    events: list[str]
    """Of ``Order``."""


def record_run(config: RunConfig, **given: Any) -> RecordedRun:
    """``raypref.run``, with the driver's requests and batches written down on the way."""
    from actors.learner.group import LearnerGroup
    from actors.rollout.group import RolloutGroup

    requests: list[types.SampleRequest] = []
    batches: list[tuple[types.Example, ...]] = []
    sample, step = RolloutGroup.sample, LearnerGroup.step

    async def sampled(group: RolloutGroup, request: types.SampleRequest) -> Any:
        requests.append(request)
        return await sample(group, request)

    async def stepped(group: LearnerGroup, batch: Sequence[types.Slice]) -> Any:
        batches.append(tuple([example for part in batch for example in (await part.ref)[part.start : part.stop]]))
        return await step(group, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RolloutGroup, "sample", sampled)
        patch.setattr(LearnerGroup, "step", stepped)
        result = raypref.run(config, callbacks=[order := Order()], **given)
    return RecordedRun(config, result, requests, batches, order.events)
