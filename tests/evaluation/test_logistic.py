"""Penalised logistic regression."""

from __future__ import annotations

import numpy as np
import pytest

from raypref.evaluation.logistic import FOLDS, Array, Dense, Joint, cross_validate, minimise
from raypref.preferences import sigmoid

PENALTIES = (3.0, 0.02)


def random_cells(seed: int = 0, models: int = 3, prompts: int = 8) -> tuple[Array, Array, Array, np.random.Generator]:
    rng = np.random.default_rng(seed)
    shape = (models, prompts)
    return rng.uniform(-1, 1, shape), rng.random(models * prompts), rng.integers(0, 4, models * prompts).astype(float), rng


def test_logistic_by_hand() -> None:
    """1 / (1 + 1/3) = 3/4, and no overflow far out."""
    np.testing.assert_allclose(sigmoid(np.array([0.0, np.log(3.0), -np.log(3.0), -1e4, 1e4])), [0.5, 0.75, 0.25, 0.0, 1.0])


def test_one_column_of_ones_by_hand() -> None:
    """Ten rows, eight of them 1: 10 logistic(beta) - 8 + lambda beta = 0. With beta = log 3: 7.5 - 8 + lambda log 3 = 0, so
    lambda = 0.5 / log 3. Without a fold of a 1 and a 0 the same equation is 8 logistic(beta) - 7 + lambda beta = 0."""
    penalty = 0.5 / np.log(3.0)
    labels = np.array([0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0])
    fits, best = cross_validate(Dense(np.ones((10, 1))), labels, np.ones(10), np.arange(10) % FOLDS, [penalty])
    assert (fits.shape, best) == ((1, FOLDS + 1, 1), 0)
    assert fits[0, FOLDS, 0] == pytest.approx(np.log(3.0), abs=1e-12)
    without = fits[0, 0, 0]
    assert 8 * sigmoid(without) - 7 + penalty * without == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("penalty", PENALTIES)
def test_the_gradient_is_zero(penalty: float) -> None:
    """sum_r w_r (logistic(x_r . beta) - y_r) x_r + lambda beta = 0, over the rows outside each fold and over all of them."""
    _, labels, weights, rng = random_cells()
    features, folds = rng.normal(size=(24, 3)), np.arange(24) % FOLDS
    fits, _ = cross_validate(Dense(features), labels, weights, folds, [penalty])
    for fold, beta in enumerate(fits[0]):
        kept = folds != fold
        slope = features[kept].T @ (weights[kept] * (sigmoid(features[kept] @ beta) - labels[kept])) + penalty * beta
        np.testing.assert_allclose(slope, 0.0, atol=1e-10)


def written_out(terms: Array) -> Array:
    """Column 2 m is 1 and column 2 m + 1 is t on model m's rows; column 2 M + n is 1 on prompt n's."""
    models, prompts = terms.shape
    features = np.zeros((models, prompts, 2 * models + prompts))
    for model in range(models):
        features[model, :, 2 * model], features[model, :, 2 * model + 1] = 1.0, terms[model]
        features[model, :, 2 * models :] = np.eye(prompts)
    return features.reshape(models * prompts, -1)


def test_a_joint_fit_is_the_fit_of_its_matrix_written_out() -> None:
    terms, labels, weights, _ = random_cells()
    settings = (labels, weights, np.arange(len(labels)) % FOLDS, PENALTIES)
    joint, best = cross_validate(Joint(terms), *settings)
    dense, expected = cross_validate(Dense(written_out(terms)), *settings)
    np.testing.assert_allclose(joint, dense, atol=1e-10)
    assert best == expected


def test_newtons_steps_solve_their_equations() -> None:
    """(X^T diag(c) X + lambda I) b, solved for b again, with two curvatures and penalties at once."""
    terms, _, _, rng = random_cells()
    features = written_out(terms)
    curvature, wanted = rng.random((2, 24)), rng.normal(size=(2, 14))
    right = np.stack([(features.T * c @ features + p * np.eye(14)) @ b for c, p, b in zip(curvature, PENALTIES, wanted, strict=True)])
    for design in (Joint(terms), Dense(features)):
        np.testing.assert_allclose(design.solve(curvature, np.array(PENALTIES), right), wanted, atol=1e-10)


def test_a_weight_is_a_number_of_rows() -> None:
    _, labels, weights, rng = random_cells()
    features, folds = rng.normal(size=(24, 2)), np.arange(24) % FOLDS
    copies = np.repeat(np.arange(24), weights.astype(int))
    weighted, best = cross_validate(Dense(features), labels, weights, folds, PENALTIES)
    repeated, expected = cross_validate(Dense(features[copies]), labels[copies], np.ones(len(copies)), folds[copies], PENALTIES)
    np.testing.assert_allclose(weighted, repeated, atol=1e-10)
    assert best == expected


@pytest.mark.parametrize(
    ("labels", "best"),
    [
        # Folds (0, 0), (0, 0), (1, 1), (1, 1), (1/2, 1/2): who trains without a fold leans the wrong way on it, so the smallest beta wins.
        ([0.0, 0.0, 1.0, 1.0, 0.5] * 2, 0),
        # Every fold is like the others, so the beta nearest to log(0.9 / 0.1) wins.
        ([0.9] * 10, 2),
        # No lean at all: beta is 0 with any penalty, and the first of them is taken.
        ([0.5] * 10, 0),
    ],
)
def test_the_penalty_that_predicts_best(labels: list[float], best: int) -> None:
    assert cross_validate(Dense(np.ones((10, 1))), np.array(labels), np.ones(10), np.arange(10) % FOLDS, [10.0, 1.0, 0.1])[1] == best


def test_separable_rows_have_a_fit_too() -> None:
    """x = +-1 with labels 1 and 0: the gradient is -10 logistic(-beta) + lambda beta, whose root is finite."""
    features = np.tile([[1.0], [-1.0]], (5, 1))
    fits, _ = cross_validate(Dense(features), np.tile([1.0, 0.0], 5), np.ones(10), np.arange(10) % FOLDS, [1e-4])
    beta = fits[0, FOLDS, 0]
    assert beta > 5
    assert 10 * sigmoid(-beta) == pytest.approx(1e-4 * beta, rel=1e-9)


def test_steps_that_lead_uphill_are_halved() -> None:
    """f = log cosh has Newton's step -sinh(x) cosh(x): from 3 to -98, and further away each time. The minimum is at 0."""

    def descend(point: Array) -> tuple[Array, Array]:
        return np.log(np.cosh(point)).sum(axis=1), -np.sinh(point) * np.cosh(point)

    np.testing.assert_allclose(minimise(np.array([[3.0], [0.1]]), descend), 0.0, atol=1e-15)


def test_no_minimum_is_an_error() -> None:
    """f = -x has none."""
    with pytest.raises(ArithmeticError, match="no fit after 100 steps"):
        minimise(np.zeros((1, 1)), lambda point: (-point[:, 0], np.ones_like(point)))


def test_a_penalty_is_needed() -> None:
    with pytest.raises(ValueError, match=r"penalties \[1.0, 0.0\]; expected numbers above 0"):
        cross_validate(Dense(np.ones((10, 1))), np.ones(10), np.ones(10), np.arange(10) % FOLDS, [1.0, 0.0])
