"""SPO: what Theorems 1 to 4 claim, measured with the library's loss under Bradley-Terry and Plackett-Luce."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.games.closed_forms import spo_policy
from benchmarks.games.known import bradley_terry
from benchmarks.games.policies import Policy, total_variation, uniform
from benchmarks.games.population import Population, drawn, population, ranked
from benchmarks.games.tabular import Task, descend, stationary_policy
from benchmarks.theory.claim import Claim
from benchmarks.theory.games import REWARDS, interior_policies, loss, pair_of_two, selection
from raypref.selection.base import Selection

ALPHAS = (0.2, 0.5, 1.0, 2.0)
GAMMAS = (0.01, 1.0)
"""Exponents of mu: the paper's, and one that makes the weights very different."""
TOLERANCE = 1e-4


def claims() -> Iterator[Claim]:
    """All of SPO's."""
    yield from minimisers()
    yield from fixed_points()
    yield from descents()
    yield from deterministic_limit()


def data(form: str, behaviour: Policy) -> Population:
    """Pairs labelled by Bradley-Terry; sets of three with their best one, and rankings of three, by Plackett-Luce.

    ``SPO.targets`` reads nothing else of the loss, so one population serves every alpha, gamma and decay.
    """
    return _data(form, tuple(behaviour))


@functools.cache
def _data(form: str, behaviour: tuple[float, ...]) -> Population:
    spo, policy = loss("spo", form=form), np.array(behaviour)
    if form == "pair":
        return population(spo, pair_of_two(), policy, drawn(bradley_terry(tuple(REWARDS)).preference))
    rule: Selection = selection("ranking" if form == "ranking" else "best_of_n")
    return population(spo, rule, policy, ranked(REWARDS), responses=3)


def worst_distance(alpha: float, **settings: Any) -> float:
    """Largest total variation from softmax(r / alpha), over two behaviour policies and two starts each."""
    spo, n = loss("spo", alpha=alpha, **settings), len(REWARDS)
    policies = []
    for behaviour in (uniform(n), interior_policies(n, count=1, seed=7)[0]):
        task = Task(spo, data(settings.get("form", "pair"), behaviour))
        policies += [stationary_policy(task.objective, start) for start in interior_policies(n, count=2)]
    return max(total_variation(policy, spo_policy(REWARDS, alpha)) for policy in policies)


def minimisers() -> Iterator[Claim]:
    """(9), and (16) and (17) with mu = 1, have their minimum at softmax(r / alpha)."""
    for alpha in ALPHAS:
        for equation, settings in (
            ("(9)", {"form": "pair"}),
            ("(16)", {"form": "best_of_n"}),
            ("(17)", {"form": "ranking"}),
            ("(17) decayed by one half", {"form": "ranking", "decay": 0.5}),
        ):
            distance = worst_distance(alpha, gamma=0.0, **settings)
            yield Claim(f"spo/minimiser of {equation} to softmax(r over alpha), total variation/alpha={alpha:g}", distance, TOLERANCE)


def fixed_points() -> Iterator[Claim]:
    """With mu of (13), which depends on pi and passes no gradient, the fixed point of the update is softmax(r / alpha)."""
    for alpha in ALPHAS:
        for gamma in GAMMAS:
            for equation, form in (("(11)", "pair"), ("(16)", "best_of_n"), ("(17)", "ranking")):
                distance = worst_distance(alpha, gamma=gamma, form=form)
                yield Claim(
                    f"spo/fixed point of {equation} with mu to softmax(r over alpha), total variation/alpha={alpha:g}, gamma={gamma:g}",
                    distance,
                    TOLERANCE,
                )


def descents() -> Iterator[Claim]:
    """Plain gradient descent, whose path depends on mu as the paper's flow does, also converges there."""
    n = len(REWARDS)
    for equation, form in (("(11)", "pair"), ("(16)", "best_of_n"), ("(17)", "ranking")):
        spo = loss("spo", alpha=1.0, gamma=1.0, form=form)
        start = interior_policies(n, count=1)[0]
        path = descend(Task(spo, data(form, uniform(n))).objective, start, steps=400, lr=4.0)
        distance = total_variation(path[-1, 0], spo_policy(REWARDS, 1.0))
        yield Claim(f"spo/gradient descent on {equation} to softmax(r over alpha), total variation/alpha=1, gamma=1", distance, TOLERANCE)


def deterministic_limit() -> Iterator[Claim]:
    """At alpha = 0, on uniform pairs, gradient descent puts the mass on the best arm: the loss has no minimum."""
    n = len(REWARDS)
    for gamma in (0.0, 0.01):
        spo = loss("spo", alpha=0.0, gamma=gamma)
        path = descend(Task(spo, data("pair", uniform(n))).objective, uniform(n), steps=300, lr=1.0)
        best = path[-1, 0, int(np.argmax(REWARDS))]
        yield Claim(f"spo/probability of the best arm at alpha = 0, uniform pairs/gamma={gamma:g}", float(best), 0.99, ">=")
