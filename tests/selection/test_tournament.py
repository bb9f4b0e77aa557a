"""INPO's tournament: who meets whom, what is asked, who is kept."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypref.judging.config import JudgingConfig
from raypref.judging.judge import Judge
from raypref.judging.oracle_queue import OracleQueue
from raypref.losses.dpo import DPO
from raypref.selection.base import Picks
from raypref.selection.tournament import Tournament
from tests.groups import Judging, TableOracle, rollout
from tests.selection.playing import beats, in_order, play, random_matrix
from tests.test_preferences import ORDERED, STONE_PAPER_SCISSORS


def test_eight_responses_take_eleven_comparisons() -> None:
    """The lower index wins: winners 0 2 4 6, then 0 4, then 0; losers 1 3 5 7, then 3 7, then 7. 4 + (2 + 2) + (1 + 1) + 1 = 11."""
    picks, asked, _ = play(Tournament(), in_order(*range(8)))
    assert picks == [(0, 7)]
    assert asked == [(0, 1), (2, 3), (4, 5), (6, 7), (0, 2), (1, 3), (4, 6), (5, 7), (0, 4), (3, 7), (0, 7)]


def test_the_last_comparison_is_not_asked_twice() -> None:
    """0 beats everything and 1 loses to everything; they met in the first round, so that 10 comparisons are asked."""
    picks, asked, _ = play(Tournament(), in_order(0, 2, 3, 4, 5, 6, 7, 1))
    assert (picks, len(asked)) == ([(0, 1)], 10)


def test_the_judge_asks_for_these_comparisons_alone() -> None:
    table = {f"{a}>{b}": 0.9 for i, a in enumerate("abcdefgh") for b in "abcdefgh"[i + 1 :]}
    oracle = TableOracle(table=table, asked=[])
    judging = Judging(oracle, Judge(OracleQueue(oracle, JudgingConfig()), Tournament(), DPO()))
    judged = judging.judge(rollout(*"abcdefgh"))
    assert judged.picked == ((0, 7),)
    assert [len(question.pairs) for question in judging.oracle.asked] == [4, 4, 2, 1]
    assert np.isfinite(judged.matrix.values).sum() == 8 + 2 * 11


def test_a_tie_goes_to_the_first() -> None:
    """Four responses, all equal but for 0 against 3: winners 0 and 2, then 0; losers 1 and 3, where 1 wins the tie, so 3."""
    assert play(Tournament(), beats(4, (0, 3)))[0] == [(0, 3)]


def test_the_last_comparison_must_be_won() -> None:
    """All equal: 0 against 3 is a tie. And 0 > 2, 2 > 3, 3 > 0, with 1 last but for its tie with 0: y_w = 0 loses to y_l = 3."""
    picks, _, matrix = play(Tournament(), np.full((4, 4), 0.5))
    assert picks == []
    assert Tournament().metrics(matrix) == {"oracle/cycle": 0.0}
    picks, _, matrix = play(Tournament(), beats(4, (0, 1), (2, 3), (0, 2), (1, 3), (3, 0)))
    assert picks == []
    assert Tournament().metrics(matrix) == {"oracle/cycle": 1.0}


def test_odd_groups_by_hand() -> None:
    """Three: 0 beats 1, 2 goes on; winners 0 against 2, losers 1 against 2. Ordered: (0, 2). Stone, paper, scissors (0 > 1, 1 > 2,
    2 > 0): 2 wins among the winners and loses among the losers, so there is no pair.
    """
    assert play(Tournament(), ORDERED)[:2] == ([(0, 2)], [(0, 1), (0, 2), (1, 2)])
    assert play(Tournament(), STONE_PAPER_SCISSORS)[0] == []


def test_two_responses_are_one_comparison() -> None:
    assert play(Tournament(), beats(2, (1, 0)))[:2] == ([(1, 0)], [(0, 1)])
    assert play(Tournament(), beats(2))[0] == []


@pytest.mark.parametrize(("hole", "picks"), [((0, 1), []), ((0, 4), []), ((0, 7), []), ((1, 2), [(0, 7)])])
def test_a_comparison_without_an_answer_drops_the_group_if_it_is_needed(hole: tuple[int, int], picks: Picks) -> None:
    values = in_order(*range(8))
    values[hole] = values[hole[::-1]] = np.nan
    assert play(Tournament(), values)[0] == picks


@given(st.integers(2, 17), st.integers(0, 10_000))
def test_number_of_comparisons_and_only_what_was_asked_is_picked(size: int, seed: int) -> None:
    """At most 3 K / 2 - 1 for even K, (3 K - 1) / 2 for odd K; the kept pair's winner beats its loser."""
    values = random_matrix(size, seed)
    picks, asked, matrix = play(Tournament(), values)
    most = (3 * size - 1) // 2
    assert len(asked) <= most
    assert size % 2 or len(asked) >= most - 1
    assert all(matrix.values[pick] > 0.5 for pick in picks)


@given(st.integers(2, 17), st.integers(0, 10_000), st.data())
def test_a_condorcet_winner_always_wins(size: int, seed: int, data: st.DataObject) -> None:
    values = random_matrix(size, seed)
    champion = data.draw(st.integers(0, size - 1))
    values[champion], values[:, champion] = 0.6, 0.4
    values[champion, champion] = 0.5
    ((winner, _),) = play(Tournament(), values)[0]
    assert winner == champion


@given(st.permutations(range(9)), st.integers(2, 9))
def test_without_cycles_permuting_the_responses_permutes_the_pair(order: list[int], size: int) -> None:
    """A strict order has one best and one worst, whatever the bracket."""
    order = [k for k in order if k < size]
    assert play(Tournament(), in_order(*order))[0] == [(order[0], order[-1])]
