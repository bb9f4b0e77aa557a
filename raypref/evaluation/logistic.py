"""Penalised logistic regression whose labels are probabilities, with the penalty chosen by cross-validation.

    beta = argmin sum_r w_r CE(y_r, logistic(x_r . beta)) + (lambda / 2) |beta|^2

CE is the cross-entropy. Shapes: R rows, F coefficients, S fits at a time, L penalties; M models, N prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

FOLDS = 5


class Design(Protocol):
    """The products with the matrix X (R rows, F columns) that Newton's method needs."""

    coefficients: int
    """F."""

    def logits(self, beta: Array) -> Array:
        """X beta: (S, F) -> (S, R)."""

    def pull(self, residuals: Array) -> Array:
        """X^T r: (S, R) -> (S, F)."""

    def solve(self, curvature: Array, penalties: Array, right: Array) -> Array:
        """(X^T diag(c) X + lambda I)^-1 b: (S, R), (S,), (S, F) -> (S, F)."""


class Dense:
    """A matrix with few columns, stored as it is."""

    def __init__(self, features: Array) -> None:
        self.coefficients = features.shape[1]
        self._features = features
        self._products = (features[:, :, None] * features[:, None, :]).reshape(len(features), -1)

    def logits(self, beta: Array) -> Array:
        return beta @ self._features.T

    def pull(self, residuals: Array) -> Array:
        return residuals @ self._features

    def solve(self, curvature: Array, penalties: Array, right: Array) -> Array:
        size = self.coefficients
        hessian = (curvature @ self._products).reshape(-1, size, size) + penalties[:, None, None] * np.eye(size)
        return np.asarray(np.linalg.solve(hessian, right[..., None])[..., 0])


class Joint:
    """logit = theta_m + phi_m t_mn + gamma_n for M models on N prompts; beta is (theta_1, phi_1, theta_2, ..., gamma_1, ...), row m N + n.

    The block of the Hessian that belongs to gamma is diagonal. It is eliminated, which leaves 2 M unknowns to solve for.
    """

    def __init__(self, terms: Array) -> None:
        """
        Args:
            terms: (M, N) t.
        """
        self._models, self._prompts = terms.shape
        self.coefficients = 2 * self._models + self._prompts
        self._features = np.stack([np.ones_like(terms), terms], axis=1)  # (M, 2, N): what theta and phi are multiplied by

    def logits(self, beta: Array) -> Array:
        coefficients = beta[:, : 2 * self._models].reshape(-1, self._models, 2, 1)
        return ((coefficients * self._features).sum(axis=2) + beta[:, None, 2 * self._models :]).reshape(len(beta), -1)

    def pull(self, residuals: Array) -> Array:
        cells = residuals.reshape(-1, self._models, self._prompts)
        pulled = (self._features @ cells[..., None]).reshape(len(cells), -1)
        return np.concatenate([pulled, cells.sum(axis=1)], axis=1)

    def solve(self, curvature: Array, penalties: Array, right: Array) -> Array:
        size, models = 2 * self._models, np.arange(self._models)
        cells = curvature.reshape(-1, self._models, 1, self._prompts)
        cross = cells * self._features
        blocks = np.zeros((len(cells), self._models, 2, self._models, 2))
        blocks[:, models, :, models, :] = np.moveaxis(cross @ self._features.transpose(0, 2, 1), 1, 0)
        left = blocks.reshape(len(cells), size, size) + penalties[:, None, None] * np.eye(size)
        cross = cross.reshape(len(cells), size, -1)
        diagonal = cells.sum(axis=(1, 2)) + penalties[:, None]
        shares = cross / diagonal[:, None]
        first, second = right[:, :size, None], right[:, size:, None]
        solution = np.linalg.solve(left - shares @ cross.transpose(0, 2, 1), first - shares @ second)
        gamma = right[:, size:] / diagonal - (solution.transpose(0, 2, 1) @ shares)[:, 0]
        return np.concatenate([solution[..., 0], gamma], axis=1)


def fit(design: Design, labels: Array, weights: Array, penalties: Array, start: Array | None = None) -> Array:
    """Several fits of the same rows, which differ in their weights and penalties.

    Args:
        design: X.
        labels: (R,) in [0, 1].
        weights: (S, R) at least 0.
        penalties: (S,) lambda, above 0.
        start: (S, F) where the search starts; default: 0. The result does not depend on it.

    Returns:
        beta (S, F)
    """

    def newton(beta: Array) -> tuple[Array, Array]:
        logits = design.logits(beta)
        softplus = np.logaddexp(0.0, logits)
        probabilities = np.exp(logits - softplus)
        value = (weights * (softplus - labels * logits)).sum(axis=1) + penalties / 2.0 * (beta**2).sum(axis=1)
        slope = design.pull(weights * (probabilities - labels)) + penalties[:, None] * beta
        return value, -design.solve(weights * probabilities * (1.0 - probabilities), penalties, slope)

    return minimise(np.zeros((len(penalties), design.coefficients)) if start is None else start, newton)


def cross_validate(design: Design, labels: Array, weights: Array, folds: NDArray[np.intp], penalties: Sequence[float]) -> tuple[Array, int]:
    """Fit with each penalty, without each fold and on all rows, and find the penalty that predicts the held-out rows best.

    Args:
        design: X.
        labels: (R,) in [0, 1].
        weights: (R,) at least 0.
        folds: (R,) in [0, FOLDS).
        penalties: (L,) lambda, above 0; the first one wins a tie.

    Returns:
        beta (L, FOLDS + 1, F), without fold k in [:, k] and on all rows in [:, FOLDS]; and the index of the best penalty.

    Raises:
        ValueError: a penalty is not above 0.
    """
    if min(penalties) <= 0:
        raise ValueError(f"logistic regression: penalties {list(penalties)}; expected numbers above 0")
    kept = np.append(folds != np.arange(FOLDS)[:, None], np.ones((1, len(labels)), dtype=bool), axis=0)
    strengths = np.repeat(np.asarray(penalties, dtype=np.float64), len(kept))
    beta = fit(design, labels, np.tile(weights * kept, (len(penalties), 1)), strengths)
    logits = design.logits(beta).reshape(len(penalties), len(kept), -1)
    losses = (weights * ~kept * (np.logaddexp(0.0, logits) - labels * logits)).sum(axis=(1, 2))
    return beta.reshape(len(penalties), len(kept), -1), int(np.argmin(losses))


def minimise(point: Array, newton: Callable[[Array], tuple[Array, Array]]) -> Array:
    """Minima (S, F) of S strictly convex functions by Newton's method. A step that raises the function is halved until it does not.

    Args:
        point: (S, F) where to start.
        newton: point -> values (S,) and Newton's steps (S, F).

    Raises:
        ArithmeticError: no minimum after 100 steps.
    """
    value, step = newton(point)
    for _ in range(100):
        if np.abs(step).max() <= 1e-6 * (1.0 + np.abs(point).max()):
            return point + step  # convergence is quadratic: the remaining error is of the order of the step's square
        share = np.ones((len(point), 1))
        while (uphill := (reached := newton(point + share * step))[0] > value + 1e-12 * np.abs(value)).any():
            share[uphill] /= 2.0
        point = point + share * step
        value, step = reached
    raise ArithmeticError("logistic regression: no fit after 100 steps; raise the smallest penalty")
