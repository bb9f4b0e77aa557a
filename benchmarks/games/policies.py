"""Policies over n arms, and distances between two of them.

Shapes: n arms; a policy is (n,), or (..., n) with one policy per row: probabilities that sum to one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Policy = NDArray[np.float64]


def softmax(logits: NDArray[np.float64]) -> Policy:
    """exp(logits) / sum exp(logits) along the last axis, without overflow."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    policy: Policy = shifted / shifted.sum(axis=-1, keepdims=True)
    return policy


def log_mean_exp(values: NDArray[np.float64], weights: Policy) -> float:
    """log sum_y weights(y) exp(values(y)), without overflow.

    Args:
        values: (n,) in nats.
        weights: (n,) a policy.
    """
    highest = float(values.max())
    return highest + float(np.log(weights @ np.exp(values - highest)))


def uniform(size: int) -> Policy:
    """(n,) 1/n each."""
    return np.full(size, 1.0 / size)


def total_variation(first: Policy, second: Policy) -> float:
    """(1/2) sum_y |first(y) - second(y)|, in [0, 1]."""
    return float(np.abs(first - second).sum()) / 2.0


def kl_divergence(first: Policy, second: Policy) -> float:
    """sum_y first(y) log(first(y) / second(y)), in nats; infinite if ``first`` gives weight to an arm of which ``second`` gives none."""
    reached = first > 0
    with np.errstate(divide="ignore"):
        return float(first[reached] @ np.log(first[reached] / second[reached]))
