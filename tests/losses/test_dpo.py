"""DPO on numbers worked out by hand."""

import math

import numpy as np
import pytest
import torch

from raypref.errors import ConfigError
from raypref.losses.base import losses
from raypref.losses.dpo import DPO
from raypref.preferences import Unanswered
from raypref.types import PreferenceMatrix
from tests.losses.batches import loss_batch

MATRIX = PreferenceMatrix(np.array([[0.5, 0.8, np.nan], [0.2, 0.5, 0.7], [np.nan, 0.3, 0.5]]), "by hand")


def test_loss_of_one_pair() -> None:
    """Log-ratios 2 and -1, beta = 0.1: h = 0.3, loss = -log sigmoid(0.3) = log(1 + e^-0.3) = 0.5544."""
    value = DPO(beta=0.1)(loss_batch([[-10.0, -20.0]], [[-12.0, -19.0]], [[1.0, 0.0]]))
    assert value.loss.item() == pytest.approx(math.log(1 + math.exp(-0.3)))
    assert {name: figure.item() for name, figure in value.metrics.items()} == pytest.approx(
        {
            "rewards/chosen": 0.2,
            "rewards/rejected": -0.1,
            "rewards/margins": 0.3,
            "rewards/accuracies": 1.0,
            "logps/chosen": -10.0,
            "logps/rejected": -20.0,
            "logps/chosen_per_token": -1.0,
            "logps/rejected_per_token": -2.0,
        }
    ), "rewards: beta times the log-ratio; responses of 10 tokens"


def test_loss_of_an_uncertain_label() -> None:
    """q = 0.8: 0.8 log(1 + e^-0.3) + 0.2 log(1 + e^0.3)."""
    value = DPO(beta=0.1)(loss_batch([[-10.0, -20.0]], [[-12.0, -19.0]], [[0.8, 0.2]]))
    assert value.loss.item() == pytest.approx(0.8 * math.log(1 + math.exp(-0.3)) + 0.2 * math.log(1 + math.exp(0.3)))


def test_labels() -> None:
    """Hard (1, 0); soft (0.8, 0.2); smoothed by 0.1: 0.9 * 1 = 0.9, and 0.9 * 0.8 + 0.1 * 0.2 = 0.74."""
    assert DPO().targets(MATRIX, (0, 1)).tolist() == [1.0, 0.0]
    np.testing.assert_allclose(DPO(labels="soft").targets(MATRIX, (0, 1)), [0.8, 0.2])
    np.testing.assert_allclose(DPO(label_smoothing=0.1).targets(MATRIX, (0, 1)), [0.9, 0.1])
    np.testing.assert_allclose(DPO(labels="soft", label_smoothing=0.1).targets(MATRIX, (0, 1)), [0.74, 0.26])


def test_a_label_without_an_answer_is_refused() -> None:
    assert DPO().targets(MATRIX, (0, 2)).tolist() == [1.0, 0.0], "a hard label does not read the matrix"
    with pytest.raises(Unanswered, match="responses 0 and 2"):
        DPO(labels="soft").targets(MATRIX, (0, 2))


def test_stable_where_the_sigmoid_underflows() -> None:
    """h = 0.1 (-5,000 - 5,000) = -1,000: the loss is 1,000 and its gradient -beta, not infinite and not NaN."""
    batch = loss_batch([[-5000.0, -10.0]], [[0.0, -5010.0]], [[1.0, 0.0]])
    loss = DPO(beta=0.1)(batch).loss
    assert loss.item() == pytest.approx(1000.0)
    loss.sum().backward()
    assert batch.logps.grad is not None
    torch.testing.assert_close(batch.logps.grad, torch.tensor([[-0.1, 0.1]], dtype=torch.float64))


@pytest.mark.parametrize("reference", ["reference", "previous"])
def test_the_setting_decides_which_frozen_policy_is_needed(reference: str) -> None:
    loss = losses.build({"type": "dpo", "reference": reference})
    assert loss.needs == {reference}
    batch = loss_batch([[-1.0, -2.0]], [[-1.0, -2.0]], [[1.0, 0.0]])
    other = "previous_logps" if reference == "reference" else "reference_logps"
    fields = {name: getattr(batch, name) for name in batch.__slots__} | {other: None}
    assert loss(type(batch)(**fields)).loss.item() == pytest.approx(math.log(2))


def test_other_than_pairs_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"'dpo' needs pairs, the selection gave 3 responses"):
        DPO().targets(MATRIX, (0, 1, 2))


def test_averaged() -> None:
    """Lengths 5 and 10: log-ratios 0.4 and -0.1 a token, h = 0.1 * 0.5."""
    batch = loss_batch([[-10.0, -20.0]], [[-12.0, -19.0]], [[1.0, 0.0]], lengths=[[5, 10]])
    assert DPO(beta=0.1, average_logps=True)(batch).loss.item() == pytest.approx(math.log(1 + math.exp(-0.05)))
