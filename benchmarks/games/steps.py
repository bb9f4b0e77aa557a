"""SPPO's and INPO's exact steps on a game, and the bounds of their theorems.

n arms; P[i, j] = P(arm i > arm j); P(y > pi) = (P pi)_y. eta is as in each paper: a factor for SPPO, an inverse rate for INPO.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from benchmarks.games.policies import Policy, log_mean_exp, softmax
from raypref.preferences import Matrix


def sppo_log_partition(preference: Matrix, policy: Policy, eta: float) -> float:
    """log Z = log sum_y pi_t(y) exp(eta P(y > pi_t)), in nats; divided by eta it is the exact baseline of SPPO's objective.

    Source: SPPO (3.2).
    """
    return log_mean_exp(eta * (preference @ policy), policy)


def sppo_step(preference: Matrix, policy: Policy, eta: float) -> Policy:
    """pi_{t+1}(y) = pi_t(y) exp(eta P(y > pi_t)) / Z.

    Source: SPPO (3.1), (3.2): multiplicative weights in self-play.
    """
    return softmax(np.log(policy) + eta * (preference @ policy))


def sppo_iterates(preference: Matrix, start: Policy, eta: float, T: int) -> NDArray[np.float64]:
    """(T, n) pi_1 ... pi_T of exact SPPO steps; their mean is the policy of Theorem 3.1."""
    iterates = np.empty((T, len(start)))
    logits = np.log(start)
    for t in range(T):
        iterates[t] = softmax(logits)
        logits = logits + eta * (preference @ iterates[t])
    return iterates


def sppo_rate(n: int, T: int) -> float:
    """eta = sqrt(8 ln n / T), which minimises the bound below to first order in eta.

    Source: the proof of SPPO's Theorem 3.1, with KL(pi | pi_1) <= ln n from a uniform start.
    """
    return math.sqrt(8.0 * math.log(n) / T)


def sppo_gap_bound(n: int, eta: float, T: int) -> float:
    """1 - (1 - e^-eta)/eta + 2 ln n / (eta T): the average policy's duality gap is at most this.

    Source: the proof of SPPO's Theorem 3.1 (Appendix C), twice 1/2 - min_pi P(pi < average), before its expansion in eta; uniform start.
    """
    return 1.0 + math.expm1(-eta) / eta + 2.0 * math.log(n) / (eta * T)


def inpo_step(preference: Matrix, policy: Policy, reference: Policy, eta: float, tau: float) -> Policy:
    """pi_{t+1}(y) proportional to exp(P(y > pi_t) / eta) pi_ref(y)^(tau/eta) pi_t(y)^(1 - tau/eta).

    Source: INPO (5): mirror descent with rate 1/eta.
    """
    pull = tau / eta
    return softmax(preference @ policy / eta + pull * np.log(reference) + (1.0 - pull) * np.log(policy))


def inpo_rate(tau: float, t: int) -> float:
    """eta_t = tau (t + 2) / 2, t from 1.

    Source: INPO Theorem 4.
    """
    return tau * (t + 2) / 2.0


def inpo_fixed_rate(B: float, tau: float, D: float, T: int) -> float:
    """eta = max(B tau, 1) sqrt(T / D), the same for all T steps.

    Source: INPO Lemma 2, Theorem 3.

    Args:
        B: see ``log_density_bound``.
        tau: strength of the regularisation, above 0.
        D: the largest KL(pi | pi_1), in nats: max_y -log pi_ref(y) over all policies.
        T: the horizon.
    """
    return max(B * tau, 1.0) * math.sqrt(T / D)


def inpo_iterates(preference: Matrix, reference: Policy, tau: float, T: int, eta: float | None = None) -> NDArray[np.float64]:
    """(T, n) pi_1 = pi_ref ... pi_T of exact INPO steps, with the rates of Theorem 4 or with ``eta`` for all."""
    iterates = np.empty((T, len(reference)))
    iterates[0] = reference
    for t in range(1, T):
        rate = inpo_rate(tau, t) if eta is None else eta
        iterates[t] = inpo_step(preference, iterates[t - 1], reference, rate, tau)
    return iterates


def log_density_bound(policies: NDArray[np.float64], reference: Policy) -> float:
    """B = max |log pi(y) / pi_ref(y)| over the policies, but at least 1, as the proofs have it.

    Source: INPO Assumption A; "w.l.o.g. B >= 1" in Appendix A.

    Args:
        policies: (T, n).
        reference: (n,) pi_ref.
    """
    return max(1.0, float(np.abs(np.log(policies / reference)).max()))


def inpo_kl_bound(B: float, tau: float, T: NDArray[np.int_]) -> NDArray[np.float64]:
    """32 C^2 / (tau^2 (T + 1)), C = max(B tau, 1): KL(pi*, pi_T) is at most this.

    Source: INPO Theorem 4.

    Args:
        B: see ``log_density_bound``.
        tau: strength of the regularisation, above 0.
        T: any shape, from 1.

    Returns:
        in nats, of the shape of ``T``.
    """
    return 32.0 * max(B * tau, 1.0) ** 2 / (tau**2 * (np.asarray(T, dtype=np.float64) + 1.0))


def inpo_recursion_bound(divergence: NDArray[np.float64], B: float, tau: float, eta: NDArray[np.float64]) -> NDArray[np.float64]:
    """(1 - tau/eta_t) KL(pi*, pi_t) + 8 C^2 / eta_t^2, C = max(B tau, 1): KL(pi*, pi_{t+1}) is at most this.

    Source: INPO Theorem 4, first part.

    Args:
        divergence: KL(pi*, pi_t), any shape, in nats.
        B: see ``log_density_bound``.
        tau: strength of the regularisation, above 0.
        eta: of the shape of ``divergence``.
    """
    return (1.0 - tau / eta) * divergence + 8.0 * max(B * tau, 1.0) ** 2 / eta**2


def inpo_gap_bound(B: float, tau: float, D: float, eta: float, T: int) -> float:
    """2 ( eta D / T + (4 tau^2 B^2 + 1) / eta ): the average policy's regularised duality gap is at most this.

    Source: the proofs of INPO's Lemma 2 and Theorem 3 (Appendix A.1, A.2), twice the regret over T, for any fixed eta.

    Args:
        B: see ``log_density_bound``.
        tau: strength of the regularisation, above 0.
        D: the largest KL(pi | pi_1), in nats.
        eta: the inverse rate of every step.
        T: number of policies averaged.
    """
    return 2.0 * (eta * D / T + (4.0 * tau**2 * B**2 + 1.0) / eta)
