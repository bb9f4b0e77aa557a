"""INPO: what Propositions 5 and 6 and Theorem 4 claim, measured with the library's loss on independent responses."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.games.known import Game
from benchmarks.games.nash import regularised_duality_gap, regularised_nash_policy
from benchmarks.games.policies import Policy, kl_divergence, total_variation
from benchmarks.games.population import drawn, population, soft
from benchmarks.games.steps import (
    inpo_fixed_rate,
    inpo_gap_bound,
    inpo_iterates,
    inpo_kl_bound,
    inpo_rate,
    inpo_recursion_bound,
    inpo_step,
    log_density_bound,
)
from benchmarks.games.tabular import Task, logits, stationary_policy
from benchmarks.theory.claim import Claim
from benchmarks.theory.games import CYCLIC, SMALL, interior_policies, loss, pair_of_two, selection, slope
from raypref.preferences import Matrix

T = 4096
"""Steps of the last-iterate claim, which is checked at every step."""
TAIL = tuple(2**k for k in range(4, 13))
"""T at which its slope is measured, where the divergence is above rounding errors."""
HORIZONS = TAIL
"""Horizons of the average-policy claim."""


def claims() -> Iterator[Claim]:
    """All of INPO's."""
    yield from propositions()
    yield from trained()
    yield from last_iterates()
    yield from average_policies()


def task(preference: Matrix, policy: Policy, reference: Policy, eta: float, tau: float) -> Task:
    """(8): pairs drawn independently from pi_t, the chosen response drawn by P."""
    inpo = loss("inpo", eta=eta, tau=tau)
    return Task(inpo, population(inpo, pair_of_two(), policy, drawn(preference)), reference=reference, previous=policy)


def tournament_minimiser(preference: Matrix, policy: Policy, reference: Policy, eta: float, tau: float) -> Policy:
    """argmin over the pairs of a tournament among four responses, which are not those of the theorem."""
    inpo = loss("inpo", eta=eta, tau=tau)
    data = population(inpo, selection("tournament"), policy, soft(preference), responses=4)
    return stationary_policy(Task(inpo, data, reference=reference, previous=policy).objective, policy)


def population_loss(preference: Matrix, candidate: Policy, policy: Policy, reference: Policy, eta: float, tau: float) -> float:
    """(7) as written: E_{y, y' ~ pi_t} ( h(y, y') - (P(y > pi_t) - P(y' > pi_t)) / eta )^2."""
    h = np.log(candidate) - tau / eta * np.log(reference) - (eta - tau) / eta * np.log(policy) - preference @ policy / eta
    return float(policy @ (h[:, None] - h[None, :]) ** 2 @ policy)


def propositions() -> Iterator[Claim]:
    """(7) and (8) differ by a constant, and the minimiser is (5): at eta = 1/2, and at the paper's 0.005."""
    for eta in (0.5, 0.005):
        tau = eta / 3
        for name, game in SMALL.items():
            policy, reference, *candidates = interior_policies(game.size, count=7)
            given = task(game.preference, policy, reference, eta, tau)
            differences = [
                float(given.objective(logits(candidate))) - population_loss(game.preference, candidate, policy, reference, eta, tau)
                for candidate in candidates
            ]
            variation = (max(differences) - min(differences)) / abs(differences[0])
            yield Claim(f"inpo/(8) minus (7) varies over policies, relative/eta={eta:g}, {name}", variation, 1e-10)
            minimiser = stationary_policy(given.objective, policy)
            distance = total_variation(minimiser, inpo_step(game.preference, policy, reference, eta, tau))
            yield Claim(f"inpo/minimiser of (8) to (5), total variation/eta={eta:g}, {name}", distance, 1e-4)
    preference = SMALL["weighted-rock-paper-scissors"].preference
    policy, reference = interior_policies(3, count=2)
    minimiser = tournament_minimiser(preference, policy, reference, 0.5, 0.5 / 3)
    distance = total_variation(minimiser, inpo_step(preference, policy, reference, 0.5, 0.5 / 3))
    yield Claim("inpo/minimiser over a tournament's pairs is not (5), total variation/eta=0.5", distance, 1e-2, ">=")


def trained_iterates(game: Game, reference: Policy, tau: float, steps: int) -> list[Policy]:
    """pi_1 = pi_ref, pi_2, ...: each the minimiser of the library's loss over pairs drawn from the one before."""
    iterates = [reference]
    for t in range(1, steps):
        given = task(game.preference, iterates[-1], reference, inpo_rate(tau, t), tau)
        iterates.append(stationary_policy(given.objective, iterates[-1]))
    return iterates


def trained() -> Iterator[Claim]:
    """Twenty iterations of Algorithm 1 with the library's loss are twenty exact steps."""
    game, tau = CYCLIC["random-cyclic-5"], 0.1
    reference = interior_policies(game.size, count=1)[0]
    exact = inpo_iterates(game.preference, reference, tau, 20)
    iterates = trained_iterates(game, reference, tau, 20)
    worst = max(total_variation(a, b) for a, b in zip(iterates, exact, strict=True))
    yield Claim("inpo/twenty iterations of Algorithm 1 to exact steps, total variation/random-cyclic-5", worst, 1e-4)


def last_iterates() -> Iterator[Claim]:
    """With eta_t = tau (t + 2) / 2 the last policy's KL from the regularised Nash policy is within the bound at every T.

    The recursion in its proof holds at every step, too. Both bounds are thousands of times the measured values; the slope says more: about
    -4, where the theorem guarantees -1.
    """
    for tau in (0.1, 1.0):
        for name, game in CYCLIC.items():
            reference = interior_policies(game.size, count=1)[0]
            nash = regularised_nash_policy(game.preference, reference, tau)
            iterates = inpo_iterates(game.preference, reference, tau, T)
            B = log_density_bound(np.vstack([iterates, nash[None]]), reference)
            divergences = np.array([kl_divergence(nash, policy) for policy in iterates])
            where = f"tau={tau:g}, {name}"
            ratios = divergences / inpo_kl_bound(B, tau, np.arange(1, T + 1))
            yield Claim(f"inpo/KL(Nash, last policy) over its bound, largest over T = 1 ... {T}/{where}", float(ratios.max()), 1.0)
            rates = np.array([inpo_rate(tau, t) for t in range(1, T)])
            steps = divergences[1:] / inpo_recursion_bound(divergences[:-1], B, tau, rates)
            yield Claim(f"inpo/KL(Nash, policy) after a step over its bound, largest over T = 1 ... {T}/{where}", float(steps.max()), 1.0)
            yield Claim(f"inpo/log-log slope of KL(Nash, last policy) over T/{where}", slope(TAIL, [divergences[t - 1] for t in TAIL]))


def average_policies() -> Iterator[Claim]:
    """The average policy's regularised duality gap after T steps at a constant rate, one run per T, and its slope over T."""
    tau = 0.1
    for name, game in CYCLIC.items():
        reference = interior_policies(game.size, count=1)[0]
        D = float(-np.log(reference.min()))
        gaps = []
        for horizon in HORIZONS:
            eta = inpo_fixed_rate(1.0, tau, D, horizon)
            iterates = inpo_iterates(game.preference, reference, tau, horizon, eta=eta)
            B = log_density_bound(iterates, reference)
            gaps.append(regularised_duality_gap(game.preference, iterates.mean(axis=0), reference, tau))
            yield Claim(f"inpo/duality gap of the average policy/T={horizon}, {name}", gaps[-1], inpo_gap_bound(B, tau, D, eta, horizon))
        yield Claim(f"inpo/log-log slope of the duality gap over T/{name}", slope(HORIZONS, gaps))
