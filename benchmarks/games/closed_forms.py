"""The minimisers of the offline losses, in closed form.

n arms; P[i, j] = P(arm i > arm j).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from benchmarks.games.policies import Policy, softmax
from raypref.preferences import Matrix


def spo_policy(rewards: NDArray[np.float64], alpha: float) -> Policy:
    """softmax(r / alpha): SPO's minimiser under Bradley-Terry and Plackett-Luce, whatever the pairs' distribution and weights.

    Source: SPO Theorems 1 to 4.

    Args:
        rewards: (n,) r, in nats.
        alpha: above 0.
    """
    return softmax(rewards / alpha)


def srpo_improver(preference: Matrix, reference: NDArray[np.float64], beta: float) -> NDArray[np.float64]:
    """pi(y' | y) proportional to exp(p(y' > y) / beta) pi_ref(y' | y).

    Source: SRPO (5).

    Args:
        preference: (n, n).
        reference: (n, n) pi_ref(y' | y), a row for each earlier answer y.
        beta: strength of the regularisation, above 0.

    Returns:
        (n, n), rows as in ``reference``.
    """
    return softmax(preference.T / beta + np.log(reference))


def srpo_policy(preference: Matrix, reference: Policy, improver_reference: NDArray[np.float64], beta: float) -> Policy:
    """pi(y) proportional to pi_ref(y) pi*(y | y) / pi_ref(y | y): answers have more weight the more often the best improver keeps them.

    Source: SRPO (11) with pi* of (5); nothing in it depends on the behaviour policy.

    Args:
        preference: (n, n).
        reference: (n,) pi_ref(y).
        improver_reference: (n, n) pi_ref(y' | y), a row for each earlier answer y.
        beta: strength of the regularisation, above 0.
    """
    kept = np.diagonal(srpo_improver(preference, improver_reference, beta))
    return softmax(np.log(reference) + np.log(kept) - np.log(np.diagonal(improver_reference)))


def expected_preference_policy(
    preference: Matrix, behaviour: Policy, reference: Policy, beta: float, psi: Callable[[NDArray[np.float64]], NDArray[np.float64]]
) -> Policy:
    """pi(y) proportional to exp( E_{y' ~ mu} psi(p(y > y')) / beta ) pi_ref(y): IPO's for psi(p) = p, DPO's for psi(p) = logit(p).

    Source: SRPO (18). It depends on mu. It is DPO's minimiser only under Bradley-Terry; on other games it minimises the reward-model
    objective with the log-odds as the reward.

    Args:
        preference: (n, n).
        behaviour: (n,) mu, from which the pairs are drawn.
        reference: (n,) pi_ref.
        beta: strength of the regularisation, above 0.
        psi: elementwise.
    """
    return softmax(np.log(reference) + psi(preference) @ behaviour / beta)
