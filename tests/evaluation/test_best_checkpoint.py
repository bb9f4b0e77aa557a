"""The choice of a checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from raypref.errors import DataError, OracleError
from raypref.evaluation.best_checkpoint import best_checkpoint
from raypref.evaluation.outcomes import Outcomes
from raypref.evaluation.tables import checkpoint_table
from tests.evaluation.response_sets import HOW, shown

NAN = float("nan")


def _against_base(rows: Sequence[Sequence[float] | NDArray[np.float64]], lengths: list[float] | None = None) -> Outcomes:
    """Checkpoints' P against ``base``, the last set, on each prompt; they did not meet each other."""
    names = (*(f"step_{number}" for number in range(1, len(rows) + 1)), "base")
    count = len(rows[0])
    values = np.full((len(names), len(names), count), NAN)
    values[np.arange(len(names)), np.arange(len(names))] = 0.5
    values[:-1, -1], values[-1, :-1] = rows, 1.0 - np.array(rows)
    sizes = np.array([*(lengths or [1.0] * len(rows)), 1.0])[:, None]
    return Outcomes(names, values, np.repeat(sizes, count, axis=1), "tokens", (0,) * len(names))


def test_the_highest_win_rate_against_the_opponent(caplog: pytest.LogCaptureFixture) -> None:
    """The same on all prompts: 0.6, 0.8, 0.7, all intervals points, none in doubt; the others are 0.1 and 0.2 behind."""
    with caplog.at_level(logging.WARNING):
        chosen = best_checkpoint(_against_base([[0.6] * 4, [0.8] * 4, [0.7] * 4]), opponent="base", **HOW)
    assert chosen.best == "step_2"
    assert [candidate.name for candidate in chosen.candidates] == ["step_2", "step_3", "step_1"]
    assert [candidate.behind for candidate in chosen.candidates] == pytest.approx([0.0, 0.1, 0.2])
    assert chosen.undecided == ()
    assert not caplog.records


def test_overlapping_intervals_are_told(caplog: pytest.LogCaptureFixture) -> None:
    """The second is better by 0.05 on each of the prompts, which differ by more than that: intervals overlap, the difference is certain."""
    easy_and_hard = np.array([0.1, 0.9, 0.2, 0.8, 0.3, 0.7])
    with caplog.at_level(logging.WARNING):
        chosen = best_checkpoint(_against_base([easy_and_hard, easy_and_hard + 0.05]), opponent="base", **HOW)
    assert (chosen.best, chosen.undecided) == ("step_2", ("step_1",))
    assert chosen.candidates[1].behind_low == pytest.approx(0.05)
    assert "the interval of step_2, the best checkpoint, overlaps that of step_1" in caplog.text


def test_of_equals_the_shorter_then_the_first() -> None:
    """All at 0.7 but for rounding; lengths 9, 5, 5."""
    rows = [[0.6, 0.8], [0.8, 0.6], [0.7, 0.1 * 7]]
    chosen = best_checkpoint(_against_base(rows, [9.0, 5.0, 5.0]), opponent="base", **HOW)
    assert [candidate.name for candidate in chosen.candidates] == ["step_2", "step_3", "step_1"]
    assert [candidate.length for candidate in chosen.candidates] == [5.0, 5.0, 9.0]


def test_everyone_against_everyone() -> None:
    """a beats b with 0.8 and c with 0.6: mean 0.7. b loses to a and beats c with 0.9: (0.2 + 0.9) / 2 = 0.55. c: (0.4 + 0.1) / 2 = 0.25."""
    values = np.array([[0.5, 0.8, 0.6], [0.2, 0.5, 0.9], [0.4, 0.1, 0.5]])
    outcomes = Outcomes(("a", "b", "c"), np.repeat(values[:, :, None], 3, axis=2), np.ones((3, 3)), "characters", (0, 0, 0))
    chosen = best_checkpoint(outcomes, **HOW)
    assert [candidate.win_rate.win_rate for candidate in chosen.candidates] == pytest.approx([0.7, 0.55, 0.25])
    assert (chosen.best, chosen.unit) == ("a", "characters")


def test_prompts_with_an_open_comparison_count_for_nobody_whom_it_concerns() -> None:
    """On the second prompt a and b are undecided: c alone has a mean there, (0.4 + 0.1) / 2."""
    values = np.repeat(np.array([[0.5, 0.8, 0.6], [0.2, 0.5, 0.9], [0.4, 0.1, 0.5]])[:, :, None], 2, axis=2)
    values[0, 1, 1] = values[1, 0, 1] = NAN
    chosen = best_checkpoint(Outcomes(("a", "b", "c"), values, np.ones((3, 2)), "tokens", (0, 0, 0)), **HOW)
    assert [(candidate.win_rate.prompts, candidate.win_rate.unanswered) for candidate in chosen.candidates] == [(1, 1), (1, 1), (2, 0)]


def test_what_cannot_be_compared() -> None:
    with pytest.raises(DataError, match="no set of responses named 'best'; there are step_1, base"):
        best_checkpoint(_against_base([[0.6]]), opponent="best", **HOW)
    with pytest.raises(OracleError, match="decided on both 'step_2' and 'step_1'"):
        best_checkpoint(_against_base([[0.6, NAN], [NAN, 0.7]]), opponent="base", **HOW)


def test_the_table_marks_the_undecided() -> None:
    chosen = best_checkpoint(_against_base([[0.1, 0.9], [0.2, 0.9]]), opponent="base", **HOW)
    text = shown(checkpoint_table(chosen))
    assert "step_1 *" in text
