"""The maths of preference matrices, on numbers worked out by hand."""

from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from raypref.preferences import (
    Matrix,
    Unanswered,
    complete_rows,
    cycle,
    entropy,
    has_cycle,
    mean_scores,
    penalise,
    random_opponents,
    rank_correlation,
    sppo_preferences,
    unknown,
    win_rates,
)

ORDERED = np.array([[0.5, 0.8, 0.9], [0.2, 0.5, 0.7], [0.1, 0.3, 0.5]])
STONE_PAPER_SCISSORS = np.array([[0.5, 0.7, 0.3], [0.3, 0.5, 0.7], [0.7, 0.3, 0.5]])


@st.composite
def matrices(draw: st.DrawFn) -> np.ndarray:
    """Complete preference matrices of 2 to 6 responses."""
    size = draw(st.integers(2, 6))
    upper = np.triu(draw(arrays(float, (size, size), elements=st.floats(0, 1))), 1)
    return upper + np.tril(1 - upper.T, -1) + np.eye(size) / 2


def test_win_rates_include_the_diagonal() -> None:
    """(0.5 + 0.8 + 0.9) / 3 = 2.2 / 3; (0.2 + 0.5 + 0.7) / 3 = 1.4 / 3; (0.1 + 0.3 + 0.5) / 3 = 0.3."""
    np.testing.assert_allclose(win_rates(ORDERED), [2.2 / 3, 1.4 / 3, 0.3])
    np.testing.assert_allclose(win_rates(ORDERED, rows=[2, 0]), [0.3, 2.2 / 3])


def test_mean_scores() -> None:
    """log(0.8 / 0.2) = log 4 and log(0.9 / 0.1) = log 9; the diagonal gives 0: (log 4 + log 9) / 3 = log 36 / 3."""
    np.testing.assert_allclose(mean_scores(ORDERED)[0], np.log(36) / 3)


def test_mean_scores_of_certain_verdicts_are_finite() -> None:
    certain = np.array([[0.5, 1.0], [0.0, 0.5]])
    scores = mean_scores(certain)
    assert np.isfinite(scores).all()
    assert scores[0] == pytest.approx(-scores[1], rel=1e-4)


def test_the_shortest_cycle_is_found() -> None:
    """0 beats 1 beats 2 beats 3 beats 0, and 1 beats 3 beats 4 beats 1: the second is shorter. Stronger verdicts do not count more."""
    values = np.full((5, 5), 0.5)
    for winner, loser in ((0, 1), (1, 2), (2, 3), (3, 0), (1, 3), (3, 4), (4, 1)):
        values[winner, loser], values[loser, winner] = 0.9, 0.1
    found = cycle(values)
    assert sorted(found) in ([0, 1, 3], [1, 3, 4])
    assert all(values[i, j] > 0.5 for i, j in zip(found, (*found[1:], found[0]), strict=True))
    assert cycle(np.array([[0.5, 0.9], [0.1, 0.5]])) == ()


@given(values=matrices())
def test_a_cycle_is_found_where_there_is_one(values: Matrix) -> None:
    found = cycle(values)
    assert bool(found) == has_cycle(values)
    assert all(values[i, j] > 0.5 for i, j in zip(found, (*found[1:], *found[:1]), strict=True))


@given(matrices())
def test_win_rates_average_to_one_half(values: Matrix) -> None:
    """Each pair shares out one point: the sum over i of w_i is (K (K - 1) / 2 + K / 2) / K = K / 2."""
    assert win_rates(values).mean() == pytest.approx(0.5)


@given(matrices(), st.randoms())
def test_permuting_the_responses_permutes_the_win_rates(values: Matrix, random: Random) -> None:
    order = list(range(len(values)))
    random.shuffle(order)
    np.testing.assert_allclose(win_rates(values[np.ix_(order, order)]), win_rates(values)[order])


@pytest.mark.parametrize("figure", [win_rates, mean_scores])
def test_an_incomplete_row_is_refused(figure: Callable[..., Any]) -> None:
    values = ORDERED.copy()
    values[0, 1] = values[1, 0] = np.nan
    assert complete_rows(values).tolist() == [2]
    assert len(figure(values, [2])) == 1
    with pytest.raises(Unanswered, match="for response 1: its comparison with response 0 has no answer"):
        figure(values, [2, 1])


def test_penalise_moves_a_cut_off_response_towards_losing() -> None:
    """Response 0 cut off, half way: P[0, 1] = 0.8 / 2 = 0.4, P[0, 2] = 0.9 / 2 = 0.45; the others keep their verdict."""
    found = penalise(ORDERED, np.array([True, False, False]), 0.5)
    np.testing.assert_allclose(found, [[0.5, 0.4, 0.45], [0.6, 0.5, 0.7], [0.55, 0.3, 0.5]])


def test_penalise_leaves_two_cut_off_responses_and_unknown_entries_as_they_are() -> None:
    values = ORDERED.copy()
    values[0, 2] = values[2, 0] = np.nan
    found = penalise(values, np.array([True, True, False]), 1.0)
    np.testing.assert_allclose(found, [[0.5, 0.8, np.nan], [0.2, 0.5, 0.0], [np.nan, 1.0, 0.5]])


@given(matrices(), st.floats(0, 1), st.data())
def test_penalised_verdicts_still_add_up_to_one(values: Matrix, amount: float, data: st.DataObject) -> None:
    truncated = np.array(data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values))))
    found = penalise(values, truncated, amount)
    np.testing.assert_allclose(found + found.T, 1)
    assert ((found >= 0) & (found <= 1)).all()


def test_stone_paper_scissors_is_a_cycle() -> None:
    assert has_cycle(STONE_PAPER_SCISSORS)
    assert not has_cycle(ORDERED)
    assert not has_cycle(np.full((4, 4), 0.5))
    assert not has_cycle(unknown(4))


def test_a_cycle_below_the_best_and_above_the_worst_is_found() -> None:
    """Response 0 beats all, response 4 loses to all; 1, 2, 3 are stone, paper and scissors."""
    values = np.full((5, 5), 0.5)
    values[0, 1:], values[1:, 0] = 0.9, 0.1
    values[:4, 4], values[4, :4] = 0.9, 0.1
    values[1:4, 1:4] = STONE_PAPER_SCISSORS
    assert has_cycle(values)
    values[1, 2], values[2, 1] = np.nan, np.nan
    assert not has_cycle(values)


@given(st.lists(st.floats(-3, 3), min_size=2, max_size=6, unique=True))
def test_preferences_made_of_scores_have_no_cycle(scores: list[float]) -> None:
    column = np.array(scores)[:, None]
    assert not has_cycle(1 / (1 + np.exp(column.T - column)))


def test_a_sample_of_opponents_stands_for_all() -> None:
    """Response 0 met response 2 alone: (1/3) (1/2 + 2 * 0.9); 2 met both; 1 met only 2: (1/3) (1/2 + 2 * 0.7). log 9 for the score."""
    sample = np.array([[0, 0, 1], [0, 0, 1], [1, 1, 0]], dtype=bool)
    values = np.where(sample | np.eye(3, dtype=bool), ORDERED, np.nan)
    assert complete_rows(values, sample).tolist() == [0, 1, 2]
    np.testing.assert_allclose(win_rates(values, sample=sample), [2.3 / 3, 1.9 / 3, 0.3])
    np.testing.assert_allclose(mean_scores(values, [0], sample), [2 / 3 * np.log(9)])
    values[0, 2] = values[2, 0] = np.nan
    assert complete_rows(values, sample).tolist() == [1]
    with pytest.raises(Unanswered, match="for response 0: its comparison with response 2 has no answer"):
        win_rates(values, sample=sample)
    sample[0] = False
    with pytest.raises(Unanswered, match="for response 0: it was compared with no other response"):
        win_rates(values, [0], sample)


@pytest.mark.parametrize(("size", "count"), [(4, 1), (5, 1), (5, 2), (5, 3), (6, 3), (6, 4), (7, 5), (3, 2), (2, 1), (4, 9)])
def test_random_opponents(size: int, count: int) -> None:
    met = random_opponents(size, count, seed=3)
    assert (met == met.T).all()
    assert not met.diagonal().any()
    counts = sorted(met.sum(axis=1))
    wanted = min(count, size - 1)
    extra = wanted % 2 and size % 2  # an odd number of meetings of an odd number of responses does not come out even
    assert counts == [wanted] * (size - 1) + [wanted + 1] if extra else [wanted] * size


def test_estimated_win_rates_are_unbiased() -> None:
    """Over many draws the mean of the estimate is the win rate: (0.5 + 0.8 + 0.9) / 3 and so on; the standard error is below 0.002."""
    draws = [random_opponents(3, 1, seed) for seed in range(3000)]
    found = np.mean([win_rates(ORDERED, sample=sample) for sample in draws], axis=0)
    np.testing.assert_allclose(found, win_rates(ORDERED), atol=0.01)


@given(matrices())
def test_sppo_preferences_are_transitive_preferences(values: Matrix) -> None:
    found = sppo_preferences(values)
    np.testing.assert_allclose(found + found.T, 1)
    assert not has_cycle(found)


def test_sppo_preferences_of_two_are_steeper_than_the_verdict() -> None:
    """K = 2: g = (logit P, -logit P), so P' = sigmoid(2 logit P): 0.8 -> 16/17."""
    np.testing.assert_allclose(sppo_preferences(np.array([[0.5, 0.8], [0.2, 0.5]]))[0, 1], 16 / 17)
    assert np.isnan(sppo_preferences(unknown(3))[0, 1])


def test_entropy() -> None:
    """One tie (log 2) and one certain verdict (0), one open: log 2 / 2."""
    values = np.array([[0.5, 0.5, 1.0], [0.5, 0.5, np.nan], [0.0, np.nan, 0.5]])
    assert entropy(values) == pytest.approx(np.log(2) / 2)
    assert np.isnan(entropy(unknown(2)))


def test_rank_correlation() -> None:
    """Ranks (1, 2, 3) and (2, 1, 3): 1 - 6 (1 + 1) / (3 * 8) = 1/2. Equal figures share their rank."""
    assert rank_correlation(np.array([1.0, 5.0, 9.0]), np.array([2.0, 1.0, 3.0])) == pytest.approx(0.5)
    assert rank_correlation(np.array([1.0, 1.0, 2.0]), np.array([3.0, 3.0, 9.0])) == pytest.approx(1.0)
    assert np.isnan(rank_correlation(np.array([1.0, 1.0]), np.array([1.0, 2.0])))
