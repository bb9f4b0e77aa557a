"""IPO on numbers worked out by hand."""

from collections.abc import Sequence

import numpy as np
import pytest

from raypref.losses.base import LossBatch
from raypref.losses.ipo import IPO
from raypref.types import PreferenceMatrix
from tests.losses.batches import loss_batch, metrics_of

MATRIX = PreferenceMatrix(np.array([[0.5, 0.8], [0.2, 0.5]]), "by hand")


def pair(targets: Sequence[float] = (1.0, 0.0)) -> LossBatch:
    """Log-ratios 2 and -1; lengths 5 and 10: 0.4 and -0.1 a token."""
    return loss_batch([[-10.0, -20.0]], [[-12.0, -19.0]], [list(targets)], lengths=[[5, 10]])


def test_loss_of_one_pair() -> None:
    """h = 3, tau = 0.1: (3 - 5)^2 = 4; averaged, h = 0.5: (0.5 - 5)^2 = 20.25; q = 0.8: 0.8 * 4 + 0.2 * 64 = 16."""
    value = IPO(tau=0.1)(pair())
    assert value.loss.item() == pytest.approx(4.0)
    metrics = metrics_of(value)
    assert metrics["rewards/chosen"] + metrics["rewards/rejected"] == pytest.approx([0.2, -0.1]), "tau times the log-ratio"
    assert metrics["rewards/accuracies"] == [1.0]
    assert IPO(tau=0.1, average_logps=True)(pair()).loss.item() == pytest.approx(20.25)
    assert IPO(tau=0.1, labels="soft")(pair((0.8, 0.2))).loss.item() == pytest.approx(16.0)


def test_what_the_sppo_paper_calls_ipo() -> None:
    """(E.3) with eta = 5: (3/5 - 1)^2 = 0.16, which is 1/25 of the loss at tau = 1/(2 eta) = 0.1."""
    assert IPO(tau=1 / (2 * 5))(pair()).loss.item() / 25 == pytest.approx(0.16)


def test_labels_and_the_frozen_policy() -> None:
    np.testing.assert_allclose(IPO(labels="soft").targets(MATRIX, (0, 1)), [0.8, 0.2])
    assert IPO().needs == {"reference"}
    assert IPO(reference="previous").needs == {"previous"}
