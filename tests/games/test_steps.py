"""Exact steps, bounds and closed forms on numbers worked out by hand."""

import math
from itertools import pairwise

import numpy as np
import pytest

from benchmarks.games.closed_forms import expected_preference_policy, spo_policy, srpo_improver, srpo_policy
from benchmarks.games.known import random_cyclic, rock_paper_scissors, three_arms
from benchmarks.games.nash import regularised_nash_policy
from benchmarks.games.policies import kl_divergence, log_mean_exp, softmax, total_variation, uniform
from benchmarks.games.steps import (
    inpo_fixed_rate,
    inpo_gap_bound,
    inpo_iterates,
    inpo_kl_bound,
    inpo_rate,
    inpo_recursion_bound,
    inpo_step,
    log_density_bound,
    sppo_gap_bound,
    sppo_iterates,
    sppo_log_partition,
    sppo_rate,
    sppo_step,
)

# The second arm always wins: against (1/2, 1/2) the arms win with 1/4 and 3/4.
CERTAIN = np.array([[0.5, 0.0], [1.0, 0.5]])


def test_distances() -> None:
    """(1/2, 1/2) and (1/4, 3/4): total variation 1/4; KL = (1/2) log 2 + (1/2) log(2/3); a missing arm makes it infinite."""
    first, second = np.array([0.5, 0.5]), np.array([0.25, 0.75])
    assert total_variation(first, second) == 0.25
    assert kl_divergence(first, second) == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    assert kl_divergence(np.array([1.0, 0.0]), first) == pytest.approx(math.log(2))
    assert kl_divergence(first, np.array([1.0, 0.0])) == math.inf


def test_log_mean_exp_does_not_overflow() -> None:
    assert log_mean_exp(np.array([1000.0, 1000.0]), uniform(2)) == pytest.approx(1000.0)


def test_sppo_step() -> None:
    """eta = 4 log 3: exp(eta/4) = 3 and exp(3 eta/4) = 27, so (3, 27)/30, and log Z = log((3 + 27)/2)."""
    eta = 4 * math.log(3)
    np.testing.assert_allclose(sppo_step(CERTAIN, uniform(2), eta), [0.1, 0.9])
    assert sppo_log_partition(CERTAIN, uniform(2), eta) == pytest.approx(math.log(15))


def test_sppo_iterates_are_steps() -> None:
    game = random_cyclic(5, 0)
    iterates = sppo_iterates(game.preference, uniform(5), 0.7, 4)
    np.testing.assert_allclose(iterates[0], uniform(5))
    for before, after in pairwise(iterates):
        np.testing.assert_allclose(sppo_step(game.preference, before, 0.7), after)


def test_sppo_bound() -> None:
    """n = 2, T = 8: eta = sqrt(log 2); the bound 1 - (1 - e^-eta)/eta + log(2)/(4 eta); to first order eta/2 + log(2)/(4 eta)."""
    eta = sppo_rate(2, 8)
    assert eta == pytest.approx(math.sqrt(math.log(2)))
    assert sppo_gap_bound(2, eta, 8) == pytest.approx(1 - (1 - math.exp(-eta)) / eta + math.log(2) / (4 * eta))
    eta = sppo_rate(2, 10**8)
    assert sppo_gap_bound(2, eta, 10**8) == pytest.approx(eta / 2 + 2 * math.log(2) / (eta * 10**8), rel=1e-3)


def test_inpo_step() -> None:
    """eta = 1, tau = 1/2, pi_t even, pi_ref = (0.8, 0.2): e^(1/4) sqrt(0.8) to e^(3/4) sqrt(0.2), which is 2 e^(-1/2)."""
    policy = inpo_step(CERTAIN, uniform(2), np.array([0.8, 0.2]), 1.0, 0.5)
    assert policy[0] / policy[1] == pytest.approx(2 * math.exp(-0.5))


def test_the_regularised_nash_policy_stands_still() -> None:
    game, reference = random_cyclic(5, 0), np.array([0.1, 0.2, 0.3, 0.25, 0.15])
    nash = regularised_nash_policy(game.preference, reference, 0.1)
    np.testing.assert_allclose(inpo_step(game.preference, nash, reference, 0.4, 0.1), nash)


def test_inpo_iterates_follow_the_schedule() -> None:
    """eta_1 = 3 tau/2, eta_2 = 2 tau; or the rate that is given."""
    game, reference = rock_paper_scissors((1, 2, 3)), np.array([0.2, 0.3, 0.5])
    first, second, third = inpo_iterates(game.preference, reference, 0.1, 3)
    np.testing.assert_allclose(first, reference)
    np.testing.assert_allclose(second, inpo_step(game.preference, first, reference, 0.15, 0.1))
    np.testing.assert_allclose(third, inpo_step(game.preference, second, reference, 0.2, 0.1))
    _, given = inpo_iterates(game.preference, reference, 0.1, 2, eta=1.0)
    np.testing.assert_allclose(given, inpo_step(game.preference, first, reference, 1.0, 0.1))


def test_inpo_bounds() -> None:
    """tau = 1/2, B = 4, so C = 2: 32 * 4 / (T + 1) * 4 at T = 7 is 64; one step from KL = 1 at eta = 2: 3/4 + 8 = 8.75; with D = 4 and
    T = 16 the fixed rate is 2 * 2 = 4, and the gap at most 2 (4 * 4/16 + (4 * 4 + 1)/4) = 10.5."""
    assert inpo_rate(0.5, 2) == 1.0
    assert inpo_kl_bound(4.0, 0.5, np.array([7])).tolist() == [64.0]
    assert inpo_recursion_bound(np.array([1.0]), 4.0, 0.5, np.array([2.0])).tolist() == [8.75]
    assert inpo_fixed_rate(4.0, 0.5, 4.0, 16) == 4.0
    assert inpo_gap_bound(4.0, 0.5, 4.0, 4.0, 16) == 10.5


def test_log_density_bound_is_at_least_one() -> None:
    assert log_density_bound(np.array([[0.5, 0.5]]), uniform(2)) == 1.0
    assert log_density_bound(np.array([[0.01, 0.99]]), uniform(2)) == pytest.approx(math.log(50))


def test_spo_policy() -> None:
    """r = (0, log 2), alpha = 1/2: (1, 4)/5."""
    np.testing.assert_allclose(spo_policy(np.array([0.0, math.log(2)]), 0.5), [0.2, 0.8])


def test_srpo_policies() -> None:
    """beta = 1/log 3, uniform references. Shown the losing arm: 3^(1/2) : 3^1; shown the winning one: 3^0 : 3^(1/2); both 1 : sqrt 3.

    The probability of keeping the answer is 1/(1 + sqrt 3) for the losing arm and sqrt 3/(1 + sqrt 3) for the winning one, so the policy
    is 1 : sqrt 3.
    """
    beta, share = 1 / math.log(3), 1 / (1 + math.sqrt(3))
    improver = srpo_improver(CERTAIN, np.full((2, 2), 0.5), beta)
    np.testing.assert_allclose(improver, [[share, 1 - share], [share, 1 - share]])
    np.testing.assert_allclose(srpo_policy(CERTAIN, uniform(2), np.full((2, 2), 0.5), beta), [share, 1 - share])


def test_srpo_policy_solves_the_system_that_its_loss_is_made_of() -> None:
    """(14), with the log-ratios of pi the way round of (5) and (11): p(y' > y) - 1/2 = (beta/2) (r(y'|y) + r(y') - r(y|y') - r(y))."""
    game, random, beta = random_cyclic(5, 0), np.random.default_rng(0), 0.3
    reference, improver_reference = softmax(random.normal(size=5)), softmax(random.normal(size=(5, 5)))
    r = np.log(srpo_policy(game.preference, reference, improver_reference, beta) / reference)
    revised = np.log(srpo_improver(game.preference, improver_reference, beta) / improver_reference)
    np.testing.assert_allclose(game.preference.T - 0.5, beta / 2 * (revised + r[None, :] - revised.T - r[:, None]), atol=1e-12)


def test_expected_preferences_depend_on_the_behaviour_policy() -> None:
    """The three arms: IPO's order by mean preference, y_2 first under even pairs and y_0 under skewed ones; DPO's by mean log-odds too."""
    preference = three_arms().preference
    for psi in (lambda p: p, lambda p: np.log(p / (1 - p))):
        best = [
            int(expected_preference_policy(preference, behaviour, uniform(3), 1.0, psi).argmax())
            for behaviour in (uniform(3), np.array([0.15, 0.7, 0.15]))
        ]
        assert best[1] == 0
    assert int(expected_preference_policy(preference, uniform(3), uniform(3), 1.0, lambda p: p).argmax()) == 2
