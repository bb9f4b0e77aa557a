"""One SPPO iteration on a real pretrained model and real prompts, with real engines; needs RAYPREF_TEST_DATA."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import raypref
from raypref.config import RunConfig

DATA = os.environ.get("RAYPREF_TEST_DATA")

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,  # the quickstart learns in every `make test`
    pytest.mark.timeout(900),
    pytest.mark.usefixtures("cluster"),
    pytest.mark.skipif(DATA is None, reason="RAYPREF_TEST_DATA names no directory"),
]


def livelier(prompts: list[str], responses: list[list[str]]) -> list[NDArray[np.float64]]:
    """Prefers stories with more talking and more feeling: P = sigmoid(difference in the number of such marks / 2)."""
    signs = ("!", '"', "happy", "smile", "laugh", "love", "fun")
    scores = [np.array([sum(text.count(sign) for sign in signs) for text in group], dtype=np.float64) for group in responses]
    return [1 / (1 + np.exp(-(marks[:, None] - marks[None, :]) / 2)) for marks in scores]


def test_held_out_win_rate_rises(tmp_path: Path) -> None:
    """The interval of the win rate against the base lies above one half after one iteration on 192 story openings."""
    assert DATA is not None
    stories = Path(DATA) / "tinystories_260k"
    values: dict[str, Any] = {
        "output_dir": str(tmp_path / "run"),
        "policy": {"path": str(stories / "hf_head32"), "dtype": "float32"},
        "data": {
            "path": str(stories / "prompts_selfgen_train.jsonl"),
            "held_out": str(stories / "prompts_selfgen_heldout.jsonl"),
            "held_out_prompts": 150,
            "chat_template": False,
        },
        "loop": {"iterations": 1, "prompts_per_iteration": 192},
        "rollout": {"responses": 5, "max_tokens": 64, "kv_cache_gib": 0.25},
        "selection": {"type": "best_worst"},
        "loss": {"type": "sppo", "eta": 60.0},
        "learner": {"global_batch": 16, "optimizer": {"lr": 5e-4}, "schedule": {"warmup_ratio": 0.1}},
        "placement": {"device": "cpu", "oracle": {"gpus": 0}},
    }
    result = raypref.run(RunConfig.parse(values), oracle=livelier, callbacks=[])
    (evaluation,) = result.summary["evaluations"]
    assert evaluation["base"]["low"] > 0.5
    assert result.summary["sync"]["sync/logprob_difference_max"] < 1e-4
