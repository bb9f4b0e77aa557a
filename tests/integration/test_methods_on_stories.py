"""One short run each of INPO, SPO and SRPO on a real pretrained model and real prompts, with real engines; needs RAYPREF_TEST_DATA.

An oracle that prefers livelier stories compares K stories per opening. Every method, with its own pairs or rankings, must raise the
held-out win rate against the start policy: its 95% bootstrap interval lies above one half. They are slow, because ``test_stories`` shows
the same for SPPO in ``make test``, and ``tests/theory`` what each loss does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import raypref
from raypref.config import RunConfig
from tests.integration.test_stories import DATA, livelier

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(900),
    pytest.mark.usefixtures("cluster"),
    pytest.mark.skipif(DATA is None, reason="RAYPREF_TEST_DATA names no directory"),
]

METHODS: dict[str, dict[str, Any]] = {
    "inpo": {
        "rollout": {"responses": 8},
        "selection": {"type": "tournament"},
        "loss": {"type": "inpo", "eta": 0.1},
    },
    "spo": {
        "rollout": {"responses": 4},
        "selection": {"type": "ranking"},
        "loss": {"type": "spo", "form": "ranking", "alpha": 0.1, "gamma": 0.01, "decay": 0.5},
    },
    "srpo": {
        "rollout": {"responses": 4},
        "selection": {"type": "best_worst"},
        "loss": {"type": "srpo", "beta": 0.1, "alpha": 0.5},
    },
    "dpo": {
        "rollout": {"responses": 4},
        "selection": {"type": "best_worst"},
        "loss": {"type": "dpo", "beta": 0.1},
    },
}
"""Step sizes that move a model of 260K parameters within 12 steps; the papers' are for 7B models that move little."""


def run(tmp_path: Path, method: str, **evaluation: Any) -> dict[str, Any]:
    """One iteration on 192 openings; the summary."""
    assert DATA is not None
    stories = Path(DATA) / "tinystories_260k"
    sections = METHODS[method]
    values: dict[str, Any] = {
        "output_dir": str(tmp_path / method),
        "policy": {"path": str(stories / "hf_head32"), "dtype": "float32"},
        "data": {
            "template": "{prompt}{answer}\n\n{prompt}",  # for SRPO's revisions: the earlier story, and its opening once more
            "path": str(stories / "prompts_selfgen_train.jsonl"),
            "held_out": str(stories / "prompts_selfgen_heldout.jsonl"),
            "held_out_prompts": 150,
            "chat_template": False,
        },
        "loop": {"iterations": 1, "prompts_per_iteration": 192},
        "learner": {"global_batch": 16, "optimizer": {"lr": 1e-3}, "schedule": {"warmup_ratio": 0.1}},
        "placement": {"device": "cpu", "oracle": {"gpus": 0}},
        "evaluation": evaluation,
    }
    values |= sections | {"rollout": sections["rollout"] | {"max_tokens": 64, "kv_cache_gib": 0.25}}
    return raypref.run(RunConfig.parse(values), oracle=livelier, callbacks=[]).summary


@pytest.mark.slow
@pytest.mark.parametrize("method", ["inpo", "spo", "srpo"])
def test_the_held_out_win_rate_rises(tmp_path: Path, method: str) -> None:
    summary = run(tmp_path, method)
    (evaluation,) = summary["evaluations"]
    assert evaluation["base"]["low"] > 0.5, evaluation
    assert summary["sync"]["sync/logprob_difference_max"] < 1e-4
