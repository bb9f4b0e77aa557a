"""How far a policy is from a Nash policy of a preference game, and the Nash policy of the regularised game.

n arms; P[i, j] = P(arm i > arm j). The game is symmetric and its value 1/2: both players have the same Nash policies.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmarks.games.policies import Policy, kl_divergence, log_mean_exp, softmax
from raypref.preferences import Matrix


def is_unique(preference: Matrix, nash: Policy) -> bool:
    """Whether a Nash policy over all arms is the only one: whether P - 1/2 has rank n - 1.

    Against every Nash policy q of such a game all arms are equal, (P - 1/2) q = 0, because p^T (P - 1/2) q = 0 with p above zero everywhere
    and no entry of (P - 1/2) q above zero.

    Raises:
        ValueError: the Nash policy gives an arm probability 0, and the rank does not decide.
    """
    if nash.min() <= 0:
        raise ValueError(f"nash: uniqueness is decided for policies over all arms; this one gives an arm probability {nash.min()}")
    return int(np.linalg.matrix_rank(preference - 0.5, tol=1e-9)) == len(preference) - 1


def duality_gap(preference: Matrix, policy: Policy) -> float:
    """max_pi' P(pi' > policy) - min_pi' P(policy > pi') = 2 max_i (P policy)_i - 1.

    Source: SPPO Theorem 3.1. In [0, 1]; 0 for a Nash policy and for no other.
    """
    return 2.0 * float((preference @ policy).max()) - 1.0


def regularised_duality_gap(preference: Matrix, policy: Policy, reference: Policy, tau: float) -> float:
    """max_pi1 J(pi1, policy) - min_pi2 J(policy, pi2), J = P(pi1 > pi2) - tau KL(pi1 | pi_ref) + tau KL(pi2 | pi_ref).

    = 2 ( tau log sum_y pi_ref(y) exp(P(y > policy) / tau) + tau KL(policy | pi_ref) ) - 1, because J(pi1, pi2) + J(pi2, pi1) = 1.

    Source: INPO (3) and section 2.2.

    Args:
        preference: (n, n).
        policy: (n,), 0 wherever the reference is 0.
        reference: (n,) pi_ref, above 0 everywhere.
        tau: strength of the regularisation, above 0.
    """
    best = tau * log_mean_exp(preference @ policy / tau, reference)
    return 2.0 * (best + tau * kl_divergence(policy, reference)) - 1.0


def regularised_nash_policy(preference: Matrix, reference: Policy, tau: float) -> Policy:
    """The one policy with pi(y) proportional to pi_ref(y) exp(P(y > pi) / tau).

    Newton's method with halved steps on F(theta) = theta - log pi_ref - P softmax(theta) / tau. Its Jacobian is never singular: with A
    skew-symmetric and S symmetric and positive semi-definite, A S has imaginary eigenvalues, so I - A S / tau has none at zero.

    Source: INPO section 2.2, the fixed point of (5).

    Args:
        preference: (n, n).
        reference: (n,) pi_ref, above 0 everywhere.
        tau: strength of the regularisation, above 0.

    Returns:
        (n,), unique.

    Raises:
        ArithmeticError: no fixed point to within rounding after 1,000 steps (tau is too small for float64).
    """
    theta = np.log(reference)
    for _ in range(1000):
        miss, policy = _miss(theta, preference, reference, tau)
        if np.abs(miss).max() <= 1e-13 * (1.0 + 1.0 / tau):
            return policy
        jacobian = np.eye(len(theta)) - preference @ (np.diag(policy) - np.outer(policy, policy)) / tau
        step = np.asarray(np.linalg.solve(jacobian, -miss), dtype=np.float64)
        theta = _shorter(theta, step, preference, reference, tau)
    raise ArithmeticError(f"regularised_nash_policy: no fixed point for tau = {tau}; raise tau")


def _miss(theta: NDArray[np.float64], preference: Matrix, reference: Policy, tau: float) -> tuple[NDArray[np.float64], Policy]:
    policy = softmax(theta)
    return theta - np.log(reference) - preference @ policy / tau, policy


def _shorter(
    theta: NDArray[np.float64], step: NDArray[np.float64], preference: Matrix, reference: Policy, tau: float
) -> NDArray[np.float64]:
    """A point along Newton's step at which F is smaller."""
    before = np.linalg.norm(_miss(theta, preference, reference, tau)[0])
    fraction = 1.0
    while (
        fraction > 1e-9 and np.linalg.norm(_miss(theta + fraction * step, preference, reference, tau)[0]) > (1.0 - 1e-4 * fraction) * before
    ):
        fraction /= 2.0
    return theta + fraction * step
