"""INPO on numbers worked out by hand."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from raypref.errors import ConfigError
from raypref.losses.base import LossBatch, losses
from raypref.losses.inpo import INPO
from raypref.preferences import Unanswered
from raypref.types import PreferenceMatrix
from tests.losses.batches import loss_batch

# Row means 2.2/3, 1.4/3 and 0.9/3.
MATRIX = PreferenceMatrix(np.array([[0.5, 0.8, 0.9], [0.2, 0.5, 0.7], [0.1, 0.3, 0.5]]), "by hand")


def pair(targets: Sequence[float]) -> LossBatch:
    """log pi = (-10, -20), log pi_ref = (-12, -19), log pi_t = (-11, -20): log-ratios of the pair 10, 7 and 9."""
    batch = loss_batch([[-10.0, -20.0]], [[-12.0, -19.0]], [targets])
    return replace(batch, previous_logps=torch.tensor([[-11.0, -20.0]], dtype=torch.float64))


def test_loss_of_one_pair() -> None:
    """eta = 0.1, tau = 0.05: h = 10 - 7/2 - 9/2 = 2; aimed at 1/0.2 = 5: (2 - 5)^2 = 9.

    A third of eta, the paper's: h = 10 - 7/3 - 18/3 = 5/3, (5/3 - 5)^2 = 100/9.
    """
    assert INPO(eta=0.1, tau=0.05)(pair([1.0, 0.0])).loss.item() == pytest.approx(9.0)
    assert INPO(eta=0.1)(pair([1.0, 0.0])).loss.item() == pytest.approx(100 / 9)
    assert INPO().pull == pytest.approx(1 / 3)


def test_expectation_over_the_label() -> None:
    """q = 0.8: 0.8 (2 - 5)^2 + 0.2 (2 + 5)^2 = 7.2 + 9.8."""
    assert INPO(eta=0.1, tau=0.05, labels="soft")(pair([0.8, 0.2])).loss.item() == pytest.approx(17.0)


def test_regression_on_win_rates() -> None:
    """(7): targets (2.2/3)/0.2 and (1.4/3)/0.2, apart by 4/3; h = 2: (2 - 4/3)^2 = 4/9."""
    loss = INPO(eta=0.2, tau=0.1, labels="win_rate")
    targets = loss.targets(MATRIX, (0, 1))
    np.testing.assert_allclose(targets, [11 / 3, 7 / 3])
    assert loss(pair(targets.tolist())).loss.item() == pytest.approx(4 / 9)


def test_labels() -> None:
    assert INPO().targets(MATRIX, (0, 2)).tolist() == [1.0, 0.0]
    np.testing.assert_allclose(INPO(labels="soft").targets(MATRIX, (0, 2)), [0.9, 0.1])


def test_both_frozen_policies_unless_one_has_no_part() -> None:
    """tau = 0 is the paper's ablation without pi_ref; at tau = eta, pi_t cancels, and h = 10 - 7 = 3: (3 - 5)^2 = 4."""
    assert INPO().needs == {"reference", "previous"}
    assert INPO(tau=0.0).needs == {"previous"}
    alone = INPO(eta=0.1, tau=0.1)
    assert alone.needs == {"reference"}
    assert alone(replace(pair([1.0, 0.0]), previous_logps=None)).loss.item() == pytest.approx(4.0)


def test_minimum_of_the_expectation_over_the_label() -> None:
    """q (h - c) + (1 - q) (h + c) = 0 at h = (2 q - 1) c: q = 0.8, c = 1/(2 * 0.5) = 1, h = 0.6."""
    loss = INPO(eta=0.5, tau=0.0, labels="soft")
    batch = loss_batch([[-10.0, -10.6]], [[-10.0, -10.0]], [[0.8, 0.2]])
    loss(batch).loss.sum().backward()
    assert batch.logps.grad.abs().max() < 1e-12


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"loss\.tau: 0\.2 is above loss\.eta=0\.1"):
        losses.build({"type": "inpo", "eta": 0.1, "tau": 0.2})
    with pytest.raises(ConfigError, match="'inpo' needs pairs, the selection gave 3"):
        INPO(labels="win_rate").targets(MATRIX, (0, 1, 2))
    holed = PreferenceMatrix(np.array([[0.5, np.nan], [np.nan, 0.5]]), "by hand")
    for labels in ("soft", "win_rate"):
        with pytest.raises(Unanswered):
            INPO(labels=labels).targets(holed, (0, 1))
