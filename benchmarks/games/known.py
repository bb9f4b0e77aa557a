"""Games whose Nash policy is known.

n arms; P[i, j] = P(arm i > arm j), P + P^T = 1. A game is given by its edges P - 1/2, which are skew-symmetric.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from benchmarks.games.policies import Policy, uniform
from raypref.preferences import Matrix

UNIFORM_BEHAVIOUR: Policy = uniform(3)
"""mu_0 of the SRPO paper's three arms (section 5)."""
SKEWED_BEHAVIOUR: Policy = np.array([0.15, 0.7, 0.15])
"""mu_1 of the SRPO paper's three arms (section 5)."""


@dataclass(frozen=True, slots=True)
class Game:
    """A preference game and a Nash policy of it (without regularisation)."""

    preference: Matrix
    """(n, n)"""
    nash: Policy
    """(n,)"""

    @property
    def size(self) -> int:
        return len(self.preference)


def rock_paper_scissors(weights: Sequence[float] = (1.0, 1.0, 1.0), edge: float = 0.5) -> Game:
    """Rock loses to paper, paper to scissors, scissors to rock; the Nash policy is weights / sum(weights), and no other.

    P - 1/2 = c [[0, -w_2, w_1], [w_2, 0, -w_0], [-w_1, w_0, 0]], which maps w to zero.

    Args:
        weights: w, of rock, paper, scissors; each above 0.
        edge: the largest entry of P - 1/2, in (0, 1/2].
    """
    w = np.asarray(weights, dtype=np.float64)
    c = edge / w.max()
    edges = c * np.array([[0.0, -w[2], w[1]], [w[2], 0.0, -w[0]], [-w[1], w[0], 0.0]])
    return Game(0.5 + edges, w / w.sum())


def random_cyclic(size: int, seed: int, edge: float = 0.5) -> Game:
    """A random game with a random Nash policy that gives every arm at least 1/(2n).

    P - 1/2 = c Q^T M Q with M random and skew-symmetric, Q = I - p 1^T, which maps p to zero. For almost every M of odd size
    the kernel is one-dimensional, so p is the only Nash policy (``nash.is_unique``); every arm is beaten by another, so there is a cycle.

    Args:
        size: n, odd and at least 3: a skew-symmetric matrix of even size has no kernel, or one of two dimensions.
        seed: of the random numbers.
        edge: the largest entry of P - 1/2, in (0, 1/2].

    Raises:
        ValueError: ``size`` is even, or below 3.
    """
    if size < 3 or size % 2 == 0:
        raise ValueError(f"size: a game with one Nash policy over all its arms has an odd number of them, from 3; got {size}")
    random = np.random.default_rng(seed)
    p = (uniform(size) + random.dirichlet(np.ones(size))) / 2.0
    M = random.normal(size=(size, size))
    Q = np.eye(size) - np.outer(p, np.ones(size))
    edges = Q.T @ (M - M.T) @ Q
    edges *= edge / np.abs(edges).max()
    return Game(0.5 + (edges - edges.T) / 2.0, p)


def three_arms() -> Game:
    """The SRPO paper's bandit: y_2 beats both others, and y_0 beats y_1 by a large margin.

    Source: SRPO section 5, with its two behaviour policies ``UNIFORM_BEHAVIOUR`` and ``SKEWED_BEHAVIOUR``.
    """
    preference = np.array([[0.5, 0.99, 0.3], [0.01, 0.5, 0.25], [0.7, 0.75, 0.5]])
    return Game(preference, np.array([0.0, 0.0, 1.0]))


def bradley_terry(rewards: Sequence[float]) -> Game:
    """P[i, j] = sigmoid(r_i - r_j); the best arm is the Nash policy (if several are best, any mixture of them; here the uniform one).

    Source: SPO (2).

    Args:
        rewards: (n,) r, in nats.
    """
    r = np.asarray(rewards, dtype=np.float64)
    best = r == r.max()
    return Game(0.5 + np.tanh((r[:, None] - r[None, :]) / 2.0) / 2.0, best / best.sum())


def plackett_luce(rewards: NDArray[np.float64]) -> list[tuple[tuple[int, ...], float]]:
    """Every ranking of n arms, the best one first, with its probability prod_k exp(r_k) / sum_{i >= k} exp(r_i).

    Source: SPO (3). Its first place alone is the n-ary Bradley-Terry model, exp(r_i) / sum_j exp(r_j); with two arms it is Bradley-Terry.

    Args:
        rewards: (n,) r, in nats; arms may occur more than once.
    """
    weights = np.exp(rewards - rewards.max())
    return [(ranking, _ranking_probability(weights[list(ranking)])) for ranking in permutations(range(len(rewards)))]


def _ranking_probability(weights: NDArray[np.float64]) -> float:
    remaining = np.cumsum(weights[::-1])[::-1]
    return float(np.prod(weights / remaining))
