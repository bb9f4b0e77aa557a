"""Overlap changes the time and never the result: on the real engines, references and ranks, to the last bit.

Both runs start from the same seed, and on a CPU in float32 an engine's samples do not depend on what else is in its batch, so both have the
same journal; that is checked first. What they train on from there must be the same, in the same order.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import raypref
from raypref.output.progress import Callback
from raypref.types import Verdict
from tests.integration.test_run import config_for, more_different_words

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600), pytest.mark.usefixtures("cluster")]

PROMPTS = [f"w{k} w{k + 1} w{k + 2}" for k in range(36)]


class Order(Callback):
    """What happened, in order: a "group" or a "step"."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def on_group(self, verdict: Verdict) -> None:
        self.events.append("group")

    def on_step(self, step: int, metrics: Mapping[str, float]) -> None:
        self.events.append("step")


def journal(result: raypref.RunResult) -> dict[Any, Any]:
    """(iteration, prompt id) -> the group's row, without the time it was written at."""
    import datasets

    rows = datasets.load_dataset("parquet", data_dir=str(result.output_dir / "rollouts"), split="train")
    return {(row["policy_version"], row["prompt_id"]): row for row in rows}


def test_overlapped_run_ends_in_the_parameters_of_the_other(tied_model: Path, tmp_path: Path) -> None:
    """INPO, which reads both frozen slots; two engines, two ranks, one reference; two iterations of four batches of 4, window 6.

    Overlapped, the first step is taken when at most the batch of 4 and the window of 6 are judged; else after all 16.
    """
    results, orders = [], []
    for overlap in (True, False):
        order = Order()
        config = config_for(
            tied_model,
            tmp_path / ("overlapped" if overlap else "in_turn"),
            loss={"type": "inpo"},
            loop={"iterations": 2, "prompts_per_iteration": 16, "window_groups": 6, "overlap": overlap},
            placement={
                "device": "cpu",
                "learner": {"ranks": 2, "cpus": 0.5},
                "rollout": {"engines": 2, "cpus": 0.5},
                "reference": {"gpus": 0, "cpus": 0.5},
                "oracle": {"gpus": 0},
            },
        )
        results.append(raypref.run(config, prompts=PROMPTS, oracle=more_different_words, callbacks=[order]))
        orders.append(order.events)
    assert [order.index("step") <= 10 for order in orders] == [True, False]
    assert [order.index("step") for order in orders][1] == 16
    first, second = (journal(result) for result in results)
    assert len(first) == 32
    assert first == second
    whole, again = (load_file(result.policy_dir / "model.safetensors") for result in results)
    assert whole.keys() == again.keys()
    assert [name for name in whole if not torch.equal(whole[name], again[name])] == []
