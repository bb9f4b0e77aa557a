"""KTO on numbers worked out by hand."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from raypref.errors import ConfigError
from raypref.losses.base import LossBatch
from raypref.losses.kto import KTO
from raypref.types import PreferenceMatrix
from tests.losses.batches import loss_batch
from tests.losses.bed import with_statistics

MATRIX = PreferenceMatrix(np.array([[0.5, 0.8, 0.9], [0.2, 0.5, 0.6], [0.1, 0.4, 0.5]]), "by hand")
LOSS = KTO(beta=0.5)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def pair(drifts: Sequence[float] = (1.0, 3.0)) -> LossBatch:
    """Log-ratios 2 and -1 of the prompt's own responses, ``drifts`` of another prompt's."""
    return loss_batch([[2.0 - 50, -1.0 - 50, *(drift - 50 for drift in drifts)]], [[-50.0] * 4], [[1.0, 0.0, 1.0, 0.0]])


def test_loss_of_one_pair() -> None:
    """z0 = (1 + 3)/2 = 2. Good: 1 - sigmoid(0.5 (2 - 2)) = 1/2; bad: 1 - sigmoid(0.5 (2 + 1)) = 0.18243. Their mean."""
    value = LOSS(with_statistics(LOSS, pair()))
    assert value.loss.item() == pytest.approx((0.5 + 1 - sigmoid(1.5)) / 2)
    assert value.metrics["loss/kl_baseline"].item() == pytest.approx(2.0)
    assert value.metrics["rewards/chosen"].item() == pytest.approx(LOSS.beta * 2.0)
    assert value.metrics["rewards/rejected"].item() == pytest.approx(LOSS.beta * -1.0)


def test_a_divergence_is_not_negative() -> None:
    """Drifts -1 and -3: z0 = 0. (1 - sigmoid(1) + 1 - sigmoid(0.5)) / 2."""
    value = LOSS(with_statistics(LOSS, pair((-1.0, -3.0))))
    assert value.loss.item() == pytest.approx((2 - sigmoid(1.0) - sigmoid(0.5)) / 2)


def test_the_drift_is_clamped_after_the_mean_over_the_batch() -> None:
    """Drifts 5 and -1 on average 2, of two examples: z0 = 2, and not the mean of 5 and 0."""
    first, second = pair((5.0, 5.0)), pair((-1.0, -1.0))
    both = replace(
        first,
        **{
            name: torch.cat([getattr(first, name), getattr(second, name)])
            for name in ("logps", "reference_logps", "targets", "lengths", "mask")
        },
    )
    assert LOSS.statistics(both)["drift"].tolist() == [5.0, -1.0]
    assert LOSS(with_statistics(LOSS, both)).metrics["loss/kl_baseline"].tolist() == [2.0, 2.0]


def test_weights() -> None:
    """lambda_D = 3, lambda_U = 2: (3/2 + 2 * 0.18243) / 2."""
    loss = KTO(beta=0.5, lambda_desirable=3, lambda_undesirable=2)
    assert loss(with_statistics(loss, pair())).loss.item() == pytest.approx((1.5 + 2 * (1 - sigmoid(1.5))) / 2)


def test_what_the_sppo_paper_calls_kto() -> None:
    """(E.4): sigmoid(-a + c) + sigmoid(b - c) with a = 1, b = -0.5, c = 1, twice the loss."""
    assert 2 * LOSS(with_statistics(LOSS, pair())).loss.item() == pytest.approx(sigmoid(0.0) + sigmoid(-1.5))


def test_mismatched_sequences_are_measured_and_not_trained() -> None:
    batch = with_statistics(LOSS, pair())
    LOSS(batch).loss.sum().backward()
    assert batch.logps.grad[0, :2].abs().min() > 0
    assert (batch.logps.grad[0, 2:] == 0).all()


def test_who_is_desirable() -> None:
    """Win rates 2.2/3, 1.3/3 and 1/3: only the first wins more often than not."""
    assert KTO().targets(MATRIX, (0, 2)).tolist() == [1.0, 0.0]
    assert KTO().targets(MATRIX, (0,)).tolist() == [1.0]
    assert KTO(desirable="win_rate").targets(MATRIX, (2, 1, 0)).tolist() == [0.0, 0.0, 1.0]
    with pytest.raises(ConfigError, match=r"loss\.desirable: 'chosen' does not say which of 3 responses are desirable"):
        KTO().targets(MATRIX, (0, 1, 2))


def test_an_exact_tie_is_not_a_win() -> None:
    assert KTO(desirable="win_rate").targets(PreferenceMatrix(np.full((2, 2), 0.5), "by hand"), (0, 1)).tolist() == [0.0, 0.0]
