"""SPPO: what Theorem 3.1, its proof and Appendix B claim, measured with the library's loss."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from benchmarks.games.nash import duality_gap
from benchmarks.games.policies import Policy, total_variation, uniform
from benchmarks.games.population import population, soft, whole_group
from benchmarks.games.steps import sppo_gap_bound, sppo_iterates, sppo_log_partition, sppo_rate, sppo_step
from benchmarks.games.tabular import Task, stationary_policy
from benchmarks.theory.claim import Claim
from benchmarks.theory.games import CYCLIC, SMALL, interior_policies, loss, pair_of_two, selection, slope
from raypref.preferences import Matrix, win_rates
from raypref.types import PreferenceMatrix

HORIZONS = tuple(2**k for k in range(4, 13))
"""T: 16 ... 4,096."""


def claims() -> Iterator[Claim]:
    """All of SPPO's."""
    yield from minimisers()
    yield from average_policies()
    yield from partitions()


def pair_minimiser(preference: Matrix, policy: Policy, eta: float, baseline: float) -> Policy:
    """argmin of (3.4), P(y > pi_t) as the expectation over independent pairs from pi_t.

    E (r - eta (P(y > y') - b))^2 over y' is E (r - eta (P(y > pi_t) - b))^2 and a constant: (E.1) with soft labels.
    """
    sppo = loss("sppo", eta=eta, against="pair", baseline=baseline)
    data = population(sppo, pair_of_two(), policy, soft(preference))
    return stationary_policy(Task(sppo, data, previous=policy).objective, policy)


def group_minimiser(preference: Matrix, counts: tuple[int, ...], eta: float) -> tuple[Policy, Policy]:
    """pi_t in proportion to ``counts``, and argmin of (3.4) over a group with these numbers of arms, whose win rates are P(y > pi_t)."""
    policy = np.array(counts) / sum(counts)
    sppo = loss("sppo", eta=eta, baseline=sppo_log_partition(preference, policy, eta) / eta)
    group = [arm for arm, count in enumerate(counts) for _ in range(count)]
    data = whole_group(sppo, selection("all_responses"), group, preference)
    return policy, stationary_policy(Task(sppo, data, previous=policy).objective, policy)


def minimisers() -> Iterator[Claim]:
    """With the exact baseline (1/eta) log Z the minimiser of (3.4) is (3.2); with 1/2 it is not."""
    for eta in (0.1, 1.0, 5.0):
        for name, game in SMALL.items():
            worst = 0.0
            for policy in interior_policies(game.size, count=3):
                baseline = sppo_log_partition(game.preference, policy, eta) / eta
                minimiser = pair_minimiser(game.preference, policy, eta, baseline)
                worst = max(worst, total_variation(minimiser, sppo_step(game.preference, policy, eta)))
            yield Claim(f"sppo/minimiser of (3.4) to (3.2), total variation/eta={eta:g}, {name}", worst, 1e-4)
        preference = SMALL["weighted-rock-paper-scissors"].preference
        policy, minimiser = group_minimiser(preference, (3, 1, 2), eta)
        yield Claim(
            f"sppo/minimiser of (3.4) over a whole group to (3.2), total variation/eta={eta:g}",
            total_variation(minimiser, sppo_step(preference, policy, eta)),
            1e-4,
        )
    policy = interior_policies(3, count=1)[0]
    minimiser = pair_minimiser(preference, policy, 5.0, 0.5)
    distance = total_variation(minimiser, sppo_step(preference, policy, 5.0))
    yield Claim("sppo/baseline one half does not give (3.2), total variation/eta=5", distance, 1e-2, ">=")


def average_policies() -> Iterator[Claim]:
    """The average policy's duality gap after T exact steps, one run per T, and its slope over T."""
    for name, game in CYCLIC.items():
        gaps = []
        for T in HORIZONS:
            eta = sppo_rate(game.size, T)
            average = sppo_iterates(game.preference, uniform(game.size), eta, T).mean(axis=0)
            gaps.append(duality_gap(game.preference, average))
            yield Claim(f"sppo/duality gap of the average policy/T={T}, {name}", gaps[-1], sppo_gap_bound(game.size, eta, T))
        yield Claim(f"sppo/log-log slope of the duality gap over T/{name}", slope(HORIZONS, gaps))


def log_partition_estimate(values: Matrix, eta: float) -> float:
    """log Z of ``baseline: estimate``, computed from the targets eta (w - b): eta b."""
    all_responses = tuple(range(len(values)))
    targets = loss("sppo", eta=eta, baseline="estimate").targets(PreferenceMatrix(values, "theory"), all_responses)
    return float((eta * win_rates(values) - targets)[0])


def coin_flips(K: int, seed: int) -> Matrix:
    """(K, K) each verdict 0 or 1 with probability 1/2."""
    upper = np.triu(np.random.default_rng(seed).integers(0, 2, (K, K)).astype(np.float64), 1)
    return upper + np.tril(1.0 - upper.T, -1) + np.eye(K) / 2.0


def ordered(K: int) -> Matrix:
    """(K, K) every response beats all later ones."""
    return np.triu(np.ones((K, K)), 1) + np.eye(K) / 2.0


def coin_flip_tolerance(eta: float, K: int) -> float:
    """An upper bound of log Z - eta/2 that holds but for one draw in millions: its mean plus five standard deviations.

    Source: SPPO Appendix B, with c = cosh(eta/K): E e^{eta X_i} = c^(K-1), Var = cosh(2 eta/K)^(K-1) - c^(2K-2), and
    Cov = c^(2K-4) - c^(2K-2). It is never below eta/2: sum X_i = 0, so the mean of e^{eta X_i} is at least 1.
    """
    c = math.cosh(eta / K)
    variance = math.cosh(2 * eta / K) ** (K - 1) - c ** (2 * K - 2)
    covariance = c ** (2 * K - 4) - c ** (2 * K - 2)
    deviation = math.sqrt(variance / K + (K - 1) / K * covariance)
    return math.log(c ** (K - 1) + 5.0 * deviation)


def partitions() -> Iterator[Claim]:
    """The estimated log Z tends to eta/2 for coin flips, and to log((e^eta - 1)/eta) for ordered responses.

    The latter's error is exactly log(sinh(x)/x) <= x^2/6 with x = eta/(2K), the midpoint rule's.
    """
    for eta in (1.0, 4.0):
        for K in (10, 100, 1000):
            flips = abs(log_partition_estimate(coin_flips(K, seed=K), eta) - eta / 2.0)
            yield Claim(f"sppo/log Z of coin flips, distance from eta over 2/eta={eta:g}, K={K}", flips, coin_flip_tolerance(eta, K))
            limit = math.log(math.expm1(eta) / eta)
            order = abs(log_partition_estimate(ordered(K), eta) - limit)
            yield Claim(f"sppo/log Z of ordered responses, distance from the limit/eta={eta:g}, K={K}", order, eta**2 / (24 * K**2) + 1e-12)
