"""Win rates against references."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest

from raypref.errors import OracleError
from raypref.evaluation.matching import match
from raypref.evaluation.references import reference_win_rate, scores
from raypref.evaluation.tables import reference_table, write_json
from tests.evaluation.response_sets import HOW, TableJudge, response_set, shown

NAN = float("nan")
RUN = HOW | {"in_flight": 3}


def test_one_half_is_a_draw() -> None:
    """1/2 within 1e-9 is a draw; 0.1 + 0.2 + 0.2 is 0.5 but for rounding."""
    given = scores(np.array([0.9, 0.5, 0.51, 0.1, NAN, 0.1 + 0.2 + 0.2]))
    np.testing.assert_array_equal(given, [1.0, 0.5, 1.0, 0.0, NAN, 0.5])


def test_scored_and_soft() -> None:
    """Four prompts, of which one has two responses.

    P 0.9, 0.5, 0.2, and 0.6 with 0.3; scores 1, 0.5, 0, and (1 + 0) / 2.
    Mean score 2 / 4 = 0.5; mean P (0.9 + 0.5 + 0.2 + 0.45) / 4 = 0.5125.
    """
    table = {"a>r": 0.9, "b>r": 0.5, "c>r": 0.2, "d>r": 0.6, "e>r": 0.3}
    sets = [response_set("policy", "a", "b", "c", ("d", "e"), tokens=True), response_set("gold", *"rrrr", tokens=True)]
    judge = TableJudge(table)
    result = asyncio.run(reference_win_rate(match(sets), "policy", "gold", judge, **RUN))
    assert all(len(first) == len(second) == 1 for _, first, second in judge.met)
    assert result.score.win_rate == pytest.approx(0.5)
    assert result.preference.win_rate == pytest.approx(0.5125)
    assert (result.wins, result.draws, result.losses, result.unanswered) == (2, 1, 2, 0)
    assert (result.score_half_samples.resamples, result.score_half_samples.size) == (20, 2)
    assert result.score.low <= 0.5 <= result.score.high
    assert (result.length, result.reference_length, result.unit) == (1.0, 1.0, "tokens")


def test_abstentions() -> None:
    """A prompt with one answer of two counts with that one; a prompt without any is left out: mean P (0.8 + 0.4) / 2 = 0.6."""
    table = {"a>r": 0.8, "b>r": NAN, "c>r": NAN, "d>r": 0.4}
    sets = [response_set("policy", ("a", "b"), "c", "d"), response_set("gold", *"rrr")]
    result = asyncio.run(reference_win_rate(match(sets), "policy", "gold", TableJudge(table), **RUN))
    assert result.preference.win_rate == pytest.approx(0.6)
    assert result.score.win_rate == pytest.approx(0.5)
    assert (result.preference.prompts, result.preference.unanswered, result.unanswered) == (2, 1, 2)
    nothing = match([response_set("policy", "b"), response_set("gold", "r")])
    with pytest.raises(OracleError, match="abstained on all 1"):
        asyncio.run(reference_win_rate(nothing, "policy", "gold", TableJudge(table), **RUN))


def test_an_even_policy_has_one_half_everywhere(tmp_path: Path) -> None:
    """No spread where every comparison is a draw."""
    sets = [response_set("policy", *"aaaa"), response_set("gold", *"rrrr")]
    result = asyncio.run(reference_win_rate(match(sets), "policy", "gold", TableJudge({"a>r": 0.5}), **RUN))
    assert (result.score.win_rate, result.score.low, result.score.high) == (0.5, 0.5, 0.5)
    assert (result.score_half_samples.mean, result.score_half_samples.deviation) == (0.5, 0.0)
    write_json(tmp_path / "r.json", [result])
    assert json.loads((tmp_path / "r.json").read_text())[0]["draws"] == 4
    text = shown(reference_table([result]))
    assert "0.500 ± 0.000" in text
    assert "0 / 4 / 0" in text
