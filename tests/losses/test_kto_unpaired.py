"""KTO on data without pairs: one response with a label, then a response to another prompt."""

from __future__ import annotations

import math

import torch

from raypref.losses.base import LossBatch
from raypref.losses.kto import KTO


def batch(reference: list[list[float]], targets: list[list[float]], drift: float) -> LossBatch:
    logps = torch.zeros(len(targets), 2, dtype=torch.float64, requires_grad=True)
    return LossBatch(
        logps=logps,
        reference_logps=torch.tensor(reference, dtype=torch.float64),
        previous_logps=None,
        targets=torch.tensor(targets, dtype=torch.float64),
        lengths=torch.ones(len(targets), 2, dtype=torch.long),
        mask=torch.ones(len(targets), 2, dtype=torch.bool),
        statistics={"drift": torch.tensor(drift, dtype=torch.float64)},
    )


def test_a_desirable_and_an_undesirable_response() -> None:
    """r = -log pi_ref = 3 and 1, z0 = 2, beta = 1: D sigma(-(3 - 2)) and U sigma(1 - 2), with D = 1 and U = 4/3.

    The first margin is 3 - 2, the second -(1 - 2): both right.
    """
    loss = KTO(beta=1.0, lambda_undesirable=4 / 3)
    value = loss(batch([[-3.0, -2.0], [-1.0, -2.0]], [[1.0, 1.0], [0.0, 0.0]], 2.0))
    low = 1 / (1 + math.e)
    torch.testing.assert_close(value.loss, torch.tensor([low, 4 / 3 * low], dtype=torch.float64))
    assert value.metrics["rewards/margins"].tolist() == [1.0, 1.0]
    assert value.metrics["rewards/accuracies"].tolist() == [1.0, 1.0]


def test_statistics_read_the_other_prompts_response_alone() -> None:
    assert KTO().statistics(batch([[-3.0, -2.0], [-1.0, -5.0]], [[1.0, 1.0], [0.0, 0.0]], 0.0))["drift"].tolist() == [2.0, 5.0]


def test_a_label_is_a_target() -> None:
    assert (KTO().labelled_target(True), KTO().labelled_target(False)) == (1.0, 0.0)
