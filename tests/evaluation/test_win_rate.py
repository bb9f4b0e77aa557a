"""Win rates and their intervals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raypref.errors import OracleError
from raypref.evaluation.bootstrap import bootstrap_interval
from raypref.evaluation.win_rate import summarise

SETTINGS = {"resamples": 500, "confidence": 0.95, "seed": 0}


def test_interval_of_a_known_spread() -> None:
    """400 prompts, half won: the mean's standard error is 0.5 / sqrt(400) = 0.025, so the interval is 0.5 +- 1.96 * 0.025 = 0.049."""
    low, high = bootstrap_interval(np.repeat([0.0, 1.0], 200), resamples=4000, confidence=0.95, seed=0)
    assert low == pytest.approx(0.451, abs=0.005)
    assert high == pytest.approx(0.549, abs=0.005)


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.integers(0, 5))
def test_the_interval_lies_within_the_values_and_follows_from_the_seed(values: list[float], seed: int) -> None:
    interval = bootstrap_interval(np.array(values), resamples=50, confidence=0.9, seed=seed)
    assert min(values) - 1e-12 <= interval[0] <= interval[1] <= max(values) + 1e-12
    assert interval == bootstrap_interval(np.array(values), resamples=50, confidence=0.9, seed=seed)


def test_no_value_no_interval() -> None:
    with pytest.raises(ValueError, match="no value"):
        bootstrap_interval(np.array([]), **SETTINGS)


def test_summary_leaves_abstentions_out() -> None:
    """(1 + 0.5 + 0) / 3 = 0.5 over three prompts, one without an answer."""
    summary = summarise([1.0, float("nan"), 0.5, 0.0], **SETTINGS)
    assert (summary.win_rate, summary.prompts, summary.unanswered, summary.confidence) == (0.5, 3, 1, 0.95)
    assert 0 <= summary.low < 0.5 < summary.high <= 1


def test_no_answer_at_all_is_an_error() -> None:
    with pytest.raises(OracleError, match="abstained on all 2 held-out prompts"):
        summarise([float("nan")] * 2, **SETTINGS)
