"""Best and worst of a group."""

from random import Random

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from raypref.preferences import Matrix, mean_scores, random_opponents, win_rates
from raypref.selection.base import Picks, Selection, all_pairs
from raypref.selection.best_worst import BestWorst
from raypref.selection.rules.standing import By, standing
from raypref.types import PreferenceMatrix
from tests.selection.playing import play
from tests.test_preferences import ORDERED, STONE_PAPER_SCISSORS, matrices


def picks(selection: Selection, values: Matrix) -> Picks:
    """The picks of a rule that asks for the whole matrix."""
    found, asked, _ = play(selection, values)
    assert asked == all_pairs(len(values))
    return found


def test_the_best_comes_first() -> None:
    """Win rates 2.2/3, 1.4/3 and 0.9/3."""
    assert picks(BestWorst(), ORDERED) == [(0, 2)]
    assert picks(BestWorst(by="score"), ORDERED) == [(0, 2)]


def test_win_rate_and_mean_score_can_disagree() -> None:
    """Response 0: rates 0.999, 0.6, so a mean score of log 999 + log 1.5 = 7.3 over 3; response 1 beats 2 and 3 with 0.9 each.

    Win rates (diagonal included, K = 4): 0: (0.5 + 0.45 + 0.45 + 0.999) / 4 = 0.600; 1: (0.55 + 0.5 + 0.9 + 0.9) / 4 = 0.7125.
    Mean scores: 0: (-0.2 - 0.2 + 6.9) / 4 = 1.63; 1: (0.2 + 2.2 + 2.2) / 4 = 1.15.
    """
    upper = np.array([[0, 0.45, 0.45, 0.999], [0, 0, 0.9, 0.9], [0, 0, 0, 0.5], [0, 0, 0, 0]])
    values = upper + np.tril(1 - upper.T, -1) + np.eye(4) / 2
    assert picks(BestWorst(by="win_rate"), values)[0][0] == 1
    assert picks(BestWorst(by="score"), values)[0][0] == 0


def test_of_equals_the_first_is_taken() -> None:
    values = np.array([[0.5, 0.5, 0.9, 0.9], [0.5, 0.5, 0.9, 0.9], [0.1, 0.1, 0.5, 0.5], [0.1, 0.1, 0.5, 0.5]])
    assert picks(BestWorst(), values) == [(0, 2)]


@pytest.mark.parametrize("values", [STONE_PAPER_SCISSORS, np.full((4, 4), 0.5)], ids=["cycle", "ties"])
def test_a_group_without_a_best_is_dropped_or_kept_by_config(values: Matrix) -> None:
    assert picks(BestWorst(), values) == []
    assert picks(BestWorst(all_equal="keep"), values) == [(0, 1)]


def test_a_response_with_an_open_comparison_is_not_considered() -> None:
    """Response 0 and 1 have no verdict on each other: 2 and 3 remain. With three responses only one remains: dropped."""
    values = np.full((4, 4), 0.5)
    values[0, 1] = values[1, 0] = np.nan
    values[2, 3], values[3, 2] = 0.4, 0.6
    assert picks(BestWorst(), values) == [(3, 2)]
    assert picks(BestWorst(), values[:3, :3]) == []


@given(matrices(), st.randoms(), st.sampled_from(["win_rate", "score"]))
def test_permuting_the_responses_permutes_the_pair(values: Matrix, random: Random, by: By) -> None:
    figures = np.sort((win_rates if by == "win_rate" else mean_scores)(values))
    assume(np.diff(figures).min() > 1e-6)
    order = list(range(len(values)))
    random.shuffle(order)
    ((chosen, rejected),) = picks(BestWorst(by=by), values[np.ix_(order, order)])
    assert [(order[chosen], order[rejected])] == picks(BestWorst(by=by), values)


def test_copeland_of_a_sample_counts_by_opponents_met() -> None:
    """Five equal responses, one opponent each: one of them meets two, which must not put it above the others."""
    met = random_opponents(5, 1, seed=0)
    values = np.where(met | np.eye(5, dtype=bool), 0.5, np.nan)
    figures = standing(PreferenceMatrix(values, "by hand", met, sampled=True), np.arange(5), "copeland")
    np.testing.assert_allclose(figures, 2.0)
