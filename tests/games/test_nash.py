"""Nash policies and duality gaps, against games that are solved by hand."""

import numpy as np
import pytest

from benchmarks.games.known import Game, bradley_terry, random_cyclic, rock_paper_scissors, three_arms
from benchmarks.games.nash import duality_gap, is_unique, regularised_duality_gap, regularised_nash_policy
from benchmarks.games.policies import softmax, total_variation, uniform
from tests.games.linear_program import nash_policy

GAMES = [
    rock_paper_scissors(),
    rock_paper_scissors((1, 2, 3), edge=0.3),
    three_arms(),
    bradley_terry([0.3, -1.0, 2.0, 0.0]),
    *(random_cyclic(size, seed) for size in (3, 5, 9, 21) for seed in range(5)),
]


def test_weighted_rock_paper_scissors_by_hand() -> None:
    """w = (1, 2, 3), largest edge 0.3: c = 0.1. Rock against paper 1/2 - 3c = 0.2, against scissors 1/2 + 2c = 0.7, paper against
    scissors 1/2 - c = 0.4. Against (1, 2, 3)/6 rock wins 0.5/6 + 0.4/6 + 2.1/6 = 1/2, and so do the others."""
    game = rock_paper_scissors((1, 2, 3), edge=0.3)
    np.testing.assert_allclose(game.preference, [[0.5, 0.2, 0.7], [0.8, 0.5, 0.4], [0.3, 0.6, 0.5]])
    np.testing.assert_allclose(game.preference @ game.nash, [0.5, 0.5, 0.5])
    np.testing.assert_allclose(nash_policy(game.preference), [1 / 6, 2 / 6, 3 / 6])


@pytest.mark.parametrize("game", GAMES)
def test_the_known_nash_policy_is_found(game: Game) -> None:
    np.testing.assert_allclose(game.preference + game.preference.T, 1.0, rtol=0, atol=1e-15)
    assert abs(duality_gap(game.preference, game.nash)) < 1e-12
    assert total_variation(nash_policy(game.preference), game.nash) < 1e-9


@pytest.mark.parametrize("size", [1, 2, 4, 8, 30])
@pytest.mark.parametrize("seed", range(5))
def test_the_policy_found_is_nash_in_any_game(size: int, seed: int) -> None:
    """Also where the Nash policy leaves arms out, and where verdicts are all 0, 1/2 or 1, so that the simplex method meets ties."""
    random = np.random.default_rng(seed)
    for edges in (random.uniform(-0.5, 0.5, (size, size)), random.integers(-1, 2, (size, size)) / 2.0):
        preference = 0.5 + np.triu(edges, 1) - np.triu(edges, 1).T
        policy = nash_policy(preference)
        assert policy.min() >= 0
        assert policy.sum() == pytest.approx(1.0)
        assert duality_gap(preference, policy) < 1e-9


def test_permuting_the_arms_permutes_the_policy() -> None:
    game, order = random_cyclic(7, 1), np.random.default_rng(0).permutation(7)
    np.testing.assert_allclose(nash_policy(game.preference[np.ix_(order, order)]), game.nash[order], atol=1e-9)


def test_duality_gap_by_hand() -> None:
    """Rock alone: paper beats it always, so 2 * 1 - 1 = 1. (1/2, 1/2, 0): paper wins 1/2 + 1/4 = 3/4, so the gap is 1/2."""
    preference = rock_paper_scissors().preference
    assert duality_gap(preference, np.array([1.0, 0.0, 0.0])) == 1.0
    assert duality_gap(preference, np.array([0.5, 0.5, 0.0])) == 0.5


def test_uniqueness() -> None:
    """Ten of ten random cyclic games; not where all is a tie, nor in two circles side by side that tie with each other."""
    assert all(is_unique(game.preference, game.nash) for game in (random_cyclic(5, seed) for seed in range(10)))
    assert is_unique(rock_paper_scissors((1, 2, 3)).preference, np.array([1, 2, 3]) / 6)
    assert not is_unique(np.full((3, 3), 0.5), uniform(3))
    circle = rock_paper_scissors().preference
    both = np.block([[circle, np.full((3, 3), 0.5)], [np.full((3, 3), 0.5), circle]])
    assert not is_unique(both, uniform(6))
    with pytest.raises(ValueError, match="over all arms"):
        is_unique(three_arms().preference, three_arms().nash)


def test_a_random_cyclic_game_has_an_odd_size() -> None:
    with pytest.raises(ValueError, match="odd number"):
        random_cyclic(4, 0)


@pytest.mark.parametrize("game", GAMES)
@pytest.mark.parametrize("tau", [0.01, 0.1, 1.0, 10.0])
def test_regularised_nash_policy_is_its_own_best_answer(game: Game, tau: float) -> None:
    """pi = softmax(log pi_ref + P pi / tau), the duality gap is 0, and any other policy's is above it."""
    random = np.random.default_rng(0)
    reference, other = softmax(random.normal(size=game.size)), softmax(random.normal(size=game.size))
    policy = regularised_nash_policy(game.preference, reference, tau)
    np.testing.assert_allclose(softmax(np.log(reference) + game.preference @ policy / tau), policy, atol=1e-10)
    assert abs(regularised_duality_gap(game.preference, policy, reference, tau)) < 1e-10
    assert regularised_duality_gap(game.preference, other, reference, tau) > 1e-3


def test_regularised_duality_gap_of_the_reference_by_hand() -> None:
    """Two arms, the second always wins; pi = pi_ref = (1/2, 1/2): P pi = (1/4, 3/4), so with tau = 1/4 the best answer is worth
    (1/4) log((e + e^3)/2), and the gap is twice that less 1."""
    preference = np.array([[0.5, 0.0], [1.0, 0.5]])
    expected = 2 * 0.25 * np.log((np.e + np.e**3) / 2) - 1
    assert regularised_duality_gap(preference, uniform(2), uniform(2), 0.25) == pytest.approx(expected)


def test_strong_regularisation_keeps_the_reference_and_weak_regularisation_finds_nash() -> None:
    game, reference = rock_paper_scissors((1, 2, 3)), np.array([0.2, 0.3, 0.5])
    assert total_variation(regularised_nash_policy(game.preference, reference, 1e4), reference) < 1e-4
    assert total_variation(regularised_nash_policy(game.preference, reference, 1e-4), game.nash) < 1e-3
