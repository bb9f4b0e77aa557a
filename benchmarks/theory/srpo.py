"""SRPO: what Theorem 1 and section 5 claim, measured with the library's losses."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from benchmarks.games.closed_forms import expected_preference_policy, srpo_improver, srpo_policy
from benchmarks.games.known import SKEWED_BEHAVIOUR, UNIFORM_BEHAVIOUR, three_arms
from benchmarks.games.policies import Policy, total_variation, uniform
from benchmarks.games.population import Verdicts, drawn, population, soft
from benchmarks.games.tabular import Task, descend, stationary_policy
from benchmarks.theory.claim import Claim
from benchmarks.theory.games import SMALL, interior_policies, loss, pair_of_two
from raypref.losses.base import Loss
from raypref.preferences import Matrix

ALPHAS = (0.1, 0.5, 0.9)
BEHAVIOURS = {"uniform": UNIFORM_BEHAVIOUR, "skewed": SKEWED_BEHAVIOUR}
PAIRS, STEPS, RATE = 10_000, 600, 0.01
"""Figure 2: the paper's number of pairs per data set; steps and step size of Adam, which it does not state."""


def claims() -> Iterator[Claim]:
    """All of SRPO's."""
    yield from closed_forms()
    yield from robustness()
    yield from figure_2_claims()


def solution(srpo: Loss, verdicts: Verdicts, behaviour: Policy, reference: NDArray[np.float64]) -> NDArray[np.float64]:
    """(1 + n, n) the minimiser: pi(y), and below it pi(y' | y) with one row per earlier answer y."""
    task = Task(srpo, population(srpo, pair_of_two(), behaviour, verdicts), reference=reference)
    return stationary_policy(task.objective, reference)


def closed_forms() -> Iterator[Claim]:
    """(2) with soft labels and (17) with drawn ones have their minimum where (5) and (11) say, for 0 < alpha < 1."""
    for labels, annotator in (("soft", soft), ("hard", drawn)):
        for alpha in ALPHAS:
            for name, game in SMALL.items():
                n = game.size
                reference = np.stack(interior_policies(n, count=1 + n))
                behaviour = interior_policies(n, count=1, seed=7)[0]
                srpo = loss("srpo", alpha=alpha, beta=0.3, labels=labels)
                solved = solution(srpo, annotator(game.preference), behaviour, reference)
                policy = srpo_policy(game.preference, reference[0], reference[1:], 0.3)
                improver = srpo_improver(game.preference, reference[1:], 0.3)
                where = f"{labels} labels, alpha={alpha:g}, {name}"
                yield Claim(f"srpo/policy to (11), total variation/{where}", total_variation(solved[0], policy), 1e-5)
                worst = max(total_variation(a, b) for a, b in zip(solved[1:], improver, strict=True))
                yield Claim(f"srpo/improver to (5), largest total variation over earlier answers/{where}", worst, 1e-5)


def three_arm_policy(name: str, behaviour: Policy) -> Policy:
    """pi(y) of the population loss on the three arms of section 5, with its beta = 1 and uniform references.

    ``srpo`` at alpha = 1/2, ``dpo`` and ``ipo``, all with the chosen response drawn by P.
    """
    annotator = drawn(three_arms().preference)
    if name == "srpo":
        return solution(loss("srpo", alpha=0.5, beta=1.0), annotator, behaviour, np.full((4, 3), 1 / 3))[0]
    given = three_arm_loss(name)
    task = Task(given, population(given, pair_of_two(), behaviour, annotator), reference=uniform(3))
    return stationary_policy(task.objective, uniform(3))


def undetermined() -> float:
    """Total variation between pi(y) of two minimisers of (16) alone, reached from two starts."""
    srpo = loss("srpo", alpha=0.0, beta=1.0)
    pairs = population(srpo, pair_of_two(), UNIFORM_BEHAVIOUR, drawn(three_arms().preference))
    objective = Task(srpo, pairs, reference=np.full((4, 3), 1 / 3)).objective
    starts = (np.full((4, 3), 1 / 3), np.stack(interior_policies(3, count=4)))
    return total_variation(*(stationary_policy(objective, start)[0] for start in starts))


def three_arm_loss(name: str) -> Loss:
    """DPO's or IPO's loss of section 5: beta = 1 (IPO's tau), pi_ref fixed."""
    return loss("dpo", beta=1.0) if name == "dpo" else loss("ipo", tau=1.0)


def robustness() -> Iterator[Claim]:
    """SRPO's policy is the same under both behaviour policies, while the best arm of DPO and IPO changes from y_2 to y_0."""
    srpo = [three_arm_policy("srpo", behaviour) for behaviour in BEHAVIOURS.values()]
    yield Claim("srpo/policy moves between uniform and skewed pairs, total variation/three arms, alpha=0.5", total_variation(*srpo), 1e-5)
    yield Claim("srpo/probability of y_2 less the highest other/three arms, skewed pairs", margin(srpo[1], 2), 0.0, ">=")
    yield Claim("srpo/two starts end apart at alpha = 0, total variation/three arms", undetermined(), 1e-2, ">=")
    preference: Matrix = three_arms().preference
    for name in ("dpo", "ipo"):
        even, skewed = (three_arm_policy(name, behaviour) for behaviour in BEHAVIOURS.values())
        yield Claim(f"{name}/probability of y_2 less the highest other/three arms, uniform pairs", margin(even, 2), 0.0, ">=")
        yield Claim(f"{name}/probability of y_0 less the highest other/three arms, skewed pairs", margin(skewed, 0), 0.0, ">=")
    expected = expected_preference_policy(preference, SKEWED_BEHAVIOUR, uniform(3), 1.0, lambda p: p)
    yield Claim("ipo/minimiser to (18), total variation/three arms, skewed pairs", total_variation(skewed, expected), 1e-5)


def margin(policy: Policy, arm: int) -> float:
    """The arm's probability minus the highest of the others."""
    return float(policy[arm] - np.delete(policy, arm).max())


def figure_2(behaviour: str, sampled: bool = True) -> dict[str, NDArray[np.float64]]:
    """Method -> (STEPS + 1, 3) pi(y) over the steps of Adam: SRPO at alpha = 0, IPO and DPO, beta = 1.

    Source: SRPO section 5 and Figure 2. At alpha = 0 there are many solutions; the start (the references) and the optimiser
    decide which one is reached.

    Args:
        behaviour: a name of ``BEHAVIOURS``.
        sampled: on 10,000 drawn pairs, as in the paper, or on the whole population.
    """
    paths = {}
    for name in ("srpo", "ipo", "dpo"):
        given = loss("srpo", alpha=0.0, beta=1.0) if name == "srpo" else three_arm_loss(name)
        pairs = population(given, pair_of_two(), BEHAVIOURS[behaviour], drawn(three_arms().preference))
        start = np.full((4, 3), 1 / 3) if name == "srpo" else uniform(3)
        task = Task(given, pairs.sampled(PAIRS, seed=0) if sampled else pairs, reference=start)
        paths[name] = descend(task.objective, start, steps=STEPS, lr=RATE, adam=True)[:, 0]
    return paths


def figure_2_claims() -> Iterator[Claim]:
    """Which arm each method ends with on sampled data; SRPO's distance between the two data sets is reported.

    On the whole populations it is nearly as large: most of it comes from alpha = 0, where the distribution of the pairs influences the
    optimiser, and not from the finite data, as the paper has it.
    """
    last = {behaviour: {name: path[-1] for name, path in figure_2(behaviour).items()} for behaviour in BEHAVIOURS}
    for behaviour, policies in last.items():
        for name, policy in policies.items():
            best = 0 if behaviour == "skewed" and name != "srpo" else 2
            where = f"Figure 2, {behaviour} sampled pairs"
            yield Claim(f"{name}/probability of y_{best} less the highest other/{where}", margin(policy, best), 0.0, ">=")
    moved = total_variation(last["uniform"]["srpo"], last["skewed"]["srpo"])
    yield Claim("srpo/policy moves between the two sampled data sets, total variation/Figure 2, alpha=0", moved)
    whole = [figure_2(behaviour, sampled=False)["srpo"][-1] for behaviour in BEHAVIOURS]
    yield Claim("srpo/policy moves between the two whole populations, total variation/Figure 2, alpha=0", total_variation(*whole))
