"""The peer of ``benchmarks.script_pipeline`` does the work that it is compared for."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.different_words import preferences, rewards
from benchmarks.scripts import compute_prob, rank, train, work
from raypref.losses.sppo import SPPO
from raypref.training import collation
from raypref.training.logprobs import response_logps
from raypref.types import Example
from tests.tiny_models import make_model


def test_oracle_by_hand() -> None:
    """2, 1 and 0 different words; P(0 > 1) = sigmoid(1), P(0 > 2) = sigmoid(2)."""
    assert rewards(["p"] * 3, ["w3 w4 w3", "w3w3", ""]) == [2.0, 1.0, 0.0]
    (matrix,) = preferences(["p"], [["w3 w4 w3", "w3w3", ""]])
    assert matrix[0] == pytest.approx([0.5, 1 / (1 + np.exp(-1)), 1 / (1 + np.exp(-2))])
    assert matrix + matrix.T == pytest.approx(np.ones((3, 3)))


def test_rank_and_compute_prob_keep_the_best_and_the_worst(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1, 3 and 2 different words: the pair is (1, 0). s = sigmoid: its win rates are (1/2 + s(2) + s(1)) / 3 and (1/2 + s(-2) + s(-1)) / 3.

    Where all are equal it is the first two.
    """
    (tmp_path / "0").mkdir()
    different = {"prompt": "w9", "prompt_ids": [9], "responses": ["w3", "w3 w4 w5", "w3 w4"], "response_ids": [[3], [3, 4, 5], [3, 4]]}
    equal = {"prompt": "w9", "prompt_ids": [9], "responses": ["w3", "w4", "w5"], "response_ids": [[3], [4], [5]]}
    (tmp_path / "0" / "responses.json").write_text(json.dumps([different, equal]))
    monkeypatch.setattr(sys, "argv", ["stage", str(tmp_path), "0"])
    rank.main()
    compute_prob.main()
    first, second = json.loads((tmp_path / "0" / "pairs.json").read_text())
    one, two = (1 / (1 + np.exp(-x)) for x in (1, 2))
    assert first["response_ids"] == [[3, 4, 5], [3]]
    assert first["win_rates"] == pytest.approx([(0.5 + two + one) / 3, (0.5 + (1 - two) + (1 - one)) / 3])
    assert second["response_ids"] == [[3], [4]]
    assert second["win_rates"] == [0.5, 0.5]


def test_trainer_takes_the_step_of_our_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One batch of pairs of unequal lengths: a step of AdamW on the mean of ``SPPO`` over the pairs, its gradient clipped."""
    from transformers import AutoModelForCausalLM

    start = make_model(work.policy(tmp_path, 0), tied=True)
    draw = np.random.default_rng(0)
    pairs = [
        {
            "prompt_ids": draw.integers(3, 60, 2 + k).tolist(),
            "response_ids": [draw.integers(3, 60, n).tolist() for n in (5 - k, 1 + 2 * k)],
            "win_rates": [0.7, 0.4],
        }
        for k in range(work.PAIRS)
    ]
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "pairs.json").write_text(json.dumps(pairs))
    monkeypatch.setattr(sys, "argv", ["stage", str(tmp_path), "0"])
    train.main()
    trained = AutoModelForCausalLM.from_pretrained(work.policy(tmp_path, 1), dtype=torch.float32)

    model = AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=work.LR, weight_decay=0.0, fused=True)
    loss = SPPO(eta=work.ETA)
    logps, _ = response_logps(model, collation.sequences([example_of(pair) for pair in pairs]))
    old = logps.detach().double().sum(-1).numpy().reshape(-1, 2)
    examples = [example_of(pair, previous) for pair, previous in zip(pairs, old, strict=True)]
    (loss(collation.collate(examples, logps, loss.needs)).loss.sum() / len(pairs)).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), work.MAX_GRAD_NORM)
    optimizer.step()
    for ours, theirs in zip(model.parameters(), trained.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=0.02 * work.LR, rtol=0)


def example_of(pair: dict, previous: np.ndarray | None = None) -> Example:
    prompt = np.array(pair["prompt_ids"], dtype=np.int32)
    responses = tuple(np.array(ids, dtype=np.int32) for ids in pair["response_ids"])
    targets = work.ETA * (np.array(pair["win_rates"]) - 0.5)
    return Example(0, "0", (prompt, prompt), responses, targets, 0, previous_logps=previous)
