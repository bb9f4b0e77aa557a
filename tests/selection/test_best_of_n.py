"""The best response before all others."""

from random import Random

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from raypref.preferences import Matrix
from raypref.selection.best_of_n import BestOfN
from raypref.selection.rules.standing import By, standing
from raypref.types import PreferenceMatrix
from tests.selection.playing import beats, in_order, play
from tests.test_preferences import STONE_PAPER_SCISSORS, matrices


def test_the_best_comes_first_and_the_rest_keep_their_order() -> None:
    assert play(BestOfN(), in_order(2, 3, 0, 1))[0] == [(2, 0, 1, 3)]


def test_the_best_alone() -> None:
    assert play(BestOfN(others="drop"), in_order(2, 3, 0, 1))[0] == [(2,)]


def test_of_several_best_the_first_and_they_are_counted() -> None:
    """1 and 2 both beat 0 and 3; 1 tie between them and 1 between 0 and 3, of 6 comparisons."""
    picks, _, matrix = play(BestOfN(), beats(4, (1, 0), (1, 3), (2, 0), (2, 3)))
    assert picks == [(1, 0, 2, 3)]
    assert BestOfN().metrics(matrix) == pytest.approx({"oracle/best_tied": 1.0})


@pytest.mark.parametrize("values", [STONE_PAPER_SCISSORS, np.full((3, 3), 0.5)], ids=["cycle", "ties"])
def test_a_group_without_a_best_is_dropped_or_kept_by_config(values: Matrix) -> None:
    assert play(BestOfN(), values)[0] == []
    assert play(BestOfN(all_equal="keep"), values)[0] == [(0, 1, 2)]


def test_a_response_with_an_open_comparison_is_left_out() -> None:
    values = in_order(0, 1, 2, 3)
    values[0, 2] = values[2, 0] = np.nan
    picks, _, matrix = play(BestOfN(), values)
    assert (picks, BestOfN().metrics(matrix)["oracle/best_tied"]) == ([(1, 3)], 0.0)
    values[1, 3] = values[3, 1] = np.nan
    picks, _, matrix = play(BestOfN(), values)
    assert picks == []
    assert np.isnan(BestOfN().metrics(matrix)["oracle/best_tied"])


@given(matrices(), st.randoms(), st.sampled_from(["win_rate", "score", "copeland"]))
def test_permuting_the_responses_permutes_the_best(values: Matrix, random: Random, by: By) -> None:
    figures = np.sort(standing(PreferenceMatrix(values, "by hand"), np.arange(len(values)), by))
    assume(figures[-1] - figures[-2] > 1e-6)
    order = list(range(len(values)))
    random.shuffle(order)
    (best, *rest) = play(BestOfN(by=by), values[np.ix_(order, order)])[0][0]
    assert order[best] == play(BestOfN(by=by), values)[0][0][0]
    assert rest == sorted(rest)
