"""Overlap changes the time and never the result: on the real engines, references and ranks, to the last bit.

Both runs start from the same seed, and on a CPU in float32 an engine's samples do not depend on what else is in its batch, so both have the
same journal; that is checked first. What they train on from there must be the same, in the same order.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import raypref
from tests.integration.runs import INPO_PROMPTS, Order, RecordedRun, inpo_config, more_different_words

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600), pytest.mark.usefixtures("cluster")]


def journal(result: raypref.RunResult) -> dict[Any, Any]:
    """(iteration, prompt id) -> the group's row, without the time it was written at."""
    import datasets

    rows = datasets.load_dataset("parquet", data_dir=str(result.output_dir / "rollouts"), split="train")
    return {(row["policy_version"], row["prompt_id"]): row for row in rows}


def test_overlapped_run_ends_in_the_parameters_of_the_other(inpo_run: RecordedRun, tied_model: Path, tmp_path: Path) -> None:
    """INPO, which reads both frozen slots; two engines, two ranks, one reference; two iterations of four batches of 4, window 6.

    Overlapped, the first step is taken when at most the batch of 4 and the window of 6 are judged; else after all 16.
    """
    order = Order()
    config = inpo_config(tied_model, tmp_path / "in_turn", overlap=False)
    in_turn = raypref.run(config, prompts=INPO_PROMPTS, oracle=more_different_words, callbacks=[order])
    results = (inpo_run.result, in_turn)
    assert inpo_run.events.index("step") <= 10
    assert order.events.index("step") == 16
    first, second = (journal(result) for result in results)
    assert len(first) == 32
    assert first == second
    whole, again = (load_file(result.policy_dir / "model.safetensors") for result in results)
    assert whole.keys() == again.keys()
    assert [name for name in whole if not torch.equal(whole[name], again[name])] == []
