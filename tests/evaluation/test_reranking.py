"""Best of n."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raypref.errors import OracleError
from raypref.evaluation.reranking import best_of_n, pick
from raypref.preferences import Matrix
from tests.evaluation.response_sets import HOW

NAN = float("nan")


def _matrix(size: int, **chances: float) -> Matrix:
    """P[i, j] for ``p_i_j``, the rest one half."""
    values = np.full((size, size), 0.5)
    for name, chance in chances.items():
        i, j = map(int, name.split("_")[1:])
        values[i, j], values[j, i] = chance, 1.0 - chance
    return values


def test_the_mean_score_decides_and_not_the_win_rate() -> None:
    """Of three, 0 beats 1 for sure-ish (0.99) and loses to 2 (0.4); 2 beats 0 (0.6) and 1 (0.85).

    Win rates: 0: (0.5 + 0.99 + 0.4) / 3 = 0.63, 2: (0.6 + 0.85 + 0.5) / 3 = 0.65. Mean scores: 0: (4.60 - 0.41) / 3 = 1.40,
    2: (0.41 + 1.73) / 3 = 0.71.
    """
    values = _matrix(3, p_0_1=0.99, p_0_2=0.4, p_2_1=0.85)
    assert values.mean(axis=1).argmax() == 2
    assert pick(values) == 0


def test_only_the_first_n_count() -> None:
    """Among 0 and 1 the pick is 1; 2 beats 1 by far and 0 by little, which makes it the pick of all three."""
    values = _matrix(3, p_1_0=0.6, p_2_1=0.9, p_2_0=0.55)
    assert [pick(values, n) for n in (1, 2, 3)] == [0, 1, 2]


def test_of_equals_the_first() -> None:
    assert pick(_matrix(4)) == 0


def test_responses_with_an_open_comparison_are_not_picked() -> None:
    """1 has won against 0, but its comparison with 2 is open, and so is 2's: 0 alone remains, or nobody."""
    values = _matrix(3, p_1_0=0.9, p_1_2=NAN)
    assert pick(values) == 0
    assert pick(_matrix(2, p_0_1=NAN)) is None


def test_win_rates_over_n() -> None:
    """Two prompts. On the first the picks among 1, 2 and 3 are 0, 1, 1, which beats 0 with 0.8; on the second 0, 0, 2, with 0.7.

    n = 1: 0.5; n = 2: (0.8 + 0.5) / 2 = 0.65; n = 3: (0.8 + 0.7) / 2 = 0.75. Lengths 10, 20, 30: 10; 15; (20 + 30) / 2 = 25.
    """
    matrices = [_matrix(3, p_1_0=0.8, p_1_2=0.6), _matrix(3, p_0_1=0.6, p_2_0=0.7, p_2_1=0.7)]
    curve = best_of_n(matrices, lengths=np.array([[10.0, 20.0, 30.0]] * 2), **HOW)
    assert [point.n for point in curve] == [1, 2, 3]
    assert [point.against_first.win_rate for point in curve] == pytest.approx([0.5, 0.65, 0.75])
    assert [point.length for point in curve] == pytest.approx([10.0, 15.0, 25.0])
    assert best_of_n(matrices, **HOW)[2].length is None


@pytest.mark.parametrize(("size", "wanted"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (16, [1, 2, 4, 8, 16])])
def test_powers_of_two_and_all(size: int, wanted: list[int]) -> None:
    assert [point.n for point in best_of_n([_matrix(size)] * 2, **HOW)] == wanted


def test_a_prompt_without_a_pick_is_unanswered() -> None:
    """0.8 on the one prompt that has a pick among two."""
    curve = best_of_n([_matrix(2, p_1_0=0.8), _matrix(2, p_0_1=NAN)], **HOW)
    assert (curve[1].against_first.win_rate, curve[1].against_first.unanswered) == (0.8, 1)
    assert curve[0].against_first.unanswered == 0
    with pytest.raises(OracleError, match="abstained on all 1"):
        best_of_n([_matrix(2, p_0_1=NAN)], **HOW)


@pytest.mark.parametrize("matrices", [[], [_matrix(2), _matrix(3)]])
def test_matrices_of_several_sizes_are_refused(matrices: list[Matrix]) -> None:
    with pytest.raises(ValueError, match="matrices of one size are needed"):
        best_of_n(matrices, **HOW)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(-3, 3), min_size=2, max_size=6))
def test_scores_that_follow_from_a_reward_pick_the_highest(rewards: list[float]) -> None:
    """P = sigmoid(r_i - r_j): the mean score is r_i less the mean reward, and the pick never loses to the first response."""
    given_rewards = np.array(rewards)
    values = 1.0 / (1.0 + np.exp(given_rewards[None, :] - given_rewards[:, None]))
    best = pick(values)
    assert given_rewards[best] >= given_rewards.max() - 1e-8
    assert values[best, 0] >= 0.5 - 1e-8
