"""Rankings from comparisons, and what ties and cycles become."""

from random import Random

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from raypref.preferences import Matrix
from raypref.selection.ranking import Ranking
from raypref.selection.rules.standing import By, copeland, descending, standing
from raypref.types import PreferenceMatrix
from tests.selection.playing import beats, in_order, play
from tests.test_preferences import ORDERED, STONE_PAPER_SCISSORS, matrices

CHAMPION_AND_FAVOURITE = np.array([[0.5, 0.51, 0.51, 0.51], [0.49, 0.5, 0.99, 0.99], [0.49, 0.01, 0.5, 0.6], [0.49, 0.01, 0.4, 0.5]])
"""0 beats all by a little: copeland 3, win rate 2.03 / 4. 1 beats two by a lot: copeland 2, win rate 2.97 / 4."""


def test_win_rate_and_copeland_rank_differently() -> None:
    """Win rates 2.03, 2.97, 1.6 and 1.4 of 4; responses beaten 3, 2, 1 and 0."""
    assert play(Ranking(), CHAMPION_AND_FAVOURITE)[0] == [(1, 0, 2, 3)]
    assert play(Ranking(by="copeland"), CHAMPION_AND_FAVOURITE)[0] == [(0, 1, 2, 3)]
    assert play(Ranking(by="score"), CHAMPION_AND_FAVOURITE)[0] == [(1, 0, 2, 3)]


def test_copeland_counts_a_tie_as_one_half() -> None:
    """0 beats 1 and ties with 2: 1 + 1/2."""
    np.testing.assert_allclose(copeland(beats(3, (0, 1))), [1.5, 0.5, 1.0])


def test_figures_that_differ_by_rounding_alone_keep_their_order() -> None:
    order, equal = descending(np.array([0.3, 0.6, 0.6 + 1e-15, 0.1, 0.3 + 1e-15]))
    assert (order.tolist(), equal) == ([1, 2, 0, 4, 3], 2)


def test_tails_are_one_example_for_each_response_but_the_last() -> None:
    """SPO Appendix D.2: the first, second and third serve as positive responses, those below as negative ones."""
    rule = Ranking(examples="tails")
    assert play(rule, in_order(2, 0, 3, 1))[0] == [(2, 0, 3, 1), (0, 3, 1), (3, 1)]
    assert (rule.examples_at_most(4), Ranking().examples_at_most(4)) == (3, 1)


@pytest.mark.parametrize("by", ["win_rate", "score", "copeland"])
def test_a_cycle_of_equals_is_dropped_or_kept_and_counted(by: By) -> None:
    """In stone, paper, scissors every figure is the same: 2 of 2 neighbours are tied, and of 3 comparisons the lower one wins 1 (2 > 0)."""
    picks, _, matrix = play(Ranking(by=by), STONE_PAPER_SCISSORS)
    assert picks == []
    assert play(Ranking(by=by, all_equal="keep"), STONE_PAPER_SCISSORS)[0] == [(0, 1, 2)]
    assert Ranking(by=by).metrics(matrix) == pytest.approx({"oracle/rank_ties": 1.0, "oracle/rank_upsets": 1 / 3})


def test_ties_are_counted_and_the_first_comes_first() -> None:
    """0 beats 2 and 3, 1 beats 2 and 3; 0 and 1 tie, 2 and 3 tie: 2 ties of 6 comparisons, 2 of 3 neighbours equal."""
    picks, _, matrix = play(Ranking(), beats(4, (0, 2), (0, 3), (1, 2), (1, 3)))
    assert picks == [(0, 1, 2, 3)]
    assert Ranking().metrics(matrix) == pytest.approx({"oracle/rank_ties": 2 / 3, "oracle/rank_upsets": 0.0})


def test_a_response_with_an_open_comparison_is_left_out() -> None:
    values = in_order(3, 1, 2, 0)
    values[0, 1] = values[1, 0] = np.nan
    assert play(Ranking(), values)[0] == [(3, 2)]
    values = ORDERED.copy()
    values[0, 1] = values[1, 0] = np.nan
    picks, _, matrix = play(Ranking(), values)
    assert picks == []
    assert np.isnan(Ranking().metrics(matrix)["oracle/rank_ties"])


@given(matrices(), st.randoms(), st.sampled_from(["win_rate", "score", "copeland"]))
def test_permuting_the_responses_permutes_the_ranking(values: Matrix, random: Random, by: By) -> None:
    figures = np.sort(standing(PreferenceMatrix(values, "by hand"), np.arange(len(values)), by))
    assume(np.diff(figures).min() > 1e-6)
    order = list(range(len(values)))
    random.shuffle(order)
    (ranked,) = play(Ranking(by=by), values[np.ix_(order, order)])[0]
    assert [tuple(order[k] for k in ranked)] == play(Ranking(by=by), values)[0]


@given(matrices(), st.data())
def test_copeland_ranks_a_condorcet_winner_first(values: Matrix, data: st.DataObject) -> None:
    champion = data.draw(st.integers(0, len(values) - 1))
    values[champion], values[:, champion] = 0.51, 0.49
    values[champion, champion] = 0.5
    assert play(Ranking(by="copeland"), values)[0][0][0] == champion
