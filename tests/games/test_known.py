"""Games and ranking models on numbers worked out by hand."""

import numpy as np
import pytest

from benchmarks.games.known import SKEWED_BEHAVIOUR, UNIFORM_BEHAVIOUR, bradley_terry, plackett_luce, random_cyclic, three_arms
from raypref.preferences import has_cycle


def test_bradley_terry() -> None:
    """r = (0, log 3): P[1, 0] = 3 / (1 + 3) = 3/4; extreme rewards neither overflow nor leave [0, 1]."""
    game = bradley_terry([0.0, np.log(3)])
    np.testing.assert_allclose(game.preference, [[0.5, 0.25], [0.75, 0.5]])
    assert game.nash.tolist() == [0.0, 1.0]
    assert bradley_terry([-900.0, 900.0]).preference.tolist() == [[0.5, 0.0], [1.0, 0.5]]
    assert bradley_terry([1.0, 0.0, 1.0]).nash.tolist() == [0.5, 0.0, 0.5]


def test_plackett_luce() -> None:
    """Weights (1, 2, 3): first 3 then 2 then 1 has 3/6 * 2/3 * 1 = 1/3; first 1 then 2: 1/6 * 2/5 = 1/15."""
    chances = dict(plackett_luce(np.log([1.0, 2.0, 3.0])))
    assert chances[2, 1, 0] == pytest.approx(1 / 3)
    assert chances[0, 1, 2] == pytest.approx(1 / 15)
    assert sum(chances.values()) == pytest.approx(1.0)
    first = [sum(chance for ranking, chance in chances.items() if ranking[0] == arm) for arm in range(3)]
    np.testing.assert_allclose(first, [1 / 6, 2 / 6, 3 / 6])


def test_plackett_luce_of_two_is_bradley_terry() -> None:
    rewards = np.array([0.3, -1.1])
    assert dict(plackett_luce(rewards))[0, 1] == pytest.approx(bradley_terry(list(rewards)).preference[0, 1])


def test_three_arms_and_what_the_skewed_pairs_make_of_them() -> None:
    """Mean preference of y_0, y_2: uniform 1.79/3, 1.95/3; skewed 0.15 * 0.8 + 0.7 * 0.99 = 0.813 and 0.15 * 1.2 + 0.7 * 0.75 = 0.705."""
    preference = three_arms().preference
    np.testing.assert_allclose((preference @ UNIFORM_BEHAVIOUR)[[0, 2]], [1.79 / 3, 1.95 / 3])
    np.testing.assert_allclose((preference @ SKEWED_BEHAVIOUR)[[0, 2]], [0.813, 0.705])
    assert not has_cycle(preference)


@pytest.mark.parametrize("seed", range(5))
def test_random_cyclic_games_have_a_cycle_and_the_edge_that_was_asked_for(seed: int) -> None:
    game = random_cyclic(5, seed, edge=0.3)
    assert has_cycle(game.preference)
    assert np.abs(game.preference - 0.5).max() == pytest.approx(0.3)
    assert game.nash.min() >= 0.1
