"""SRPO on numbers worked out by hand."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from raypref.losses.base import LossBatch
from raypref.losses.srpo import SRPO
from raypref.types import PreferenceMatrix
from tests.losses.batches import loss_batch

MATRIX = PreferenceMatrix(np.array([[0.5, 0.75], [0.25, 0.5]]), "by hand")
RATIOS = [2.0, 1.0, 3.0, -1.0, 4.0, 0.0]
"""Of w and l given x; given (x, w); given (x, l)."""


def six(ratios: Sequence[float] = RATIOS, p: float = 1.0, scale: float = 1.0) -> LossBatch:
    """log pi_ref is -100 throughout; ten tokens per response where the ratios are scaled by ten."""
    logps = [[scale * r - 100.0 for r in ratios]]
    return loss_batch(logps, [[-100.0] * 6], [[p, 1.0 - p] * 3], lengths=[[10] * 6])


def test_sample_losses() -> None:
    """beta = 1/4. (15): r(w|l) - r(l|l) = 4 and r(w|w) - r(l|w) = 4, (1/2 - 1)^2 twice: 1/2.
    (16): r(w|l) + r(w) - r(l|w) - r(l) = 4 + 2 + 1 - 1 = 6, (6/4 - 1)^2 = 1/4. alpha = 0.2: 0.8/4 + 0.2/2 = 0.3.
    """
    value = SRPO(beta=0.25, alpha=0.2)(six())
    assert value.loss.item() == pytest.approx(0.3)
    assert value.metrics["loss/improve"].item() == pytest.approx(0.5)
    assert value.metrics["loss/joint"].item() == pytest.approx(0.25)
    assert value.metrics["rewards/chosen"].item() == pytest.approx(0.25 * 2.0)
    assert value.metrics["rewards/rejected"].item() == pytest.approx(0.25 * 1.0)
    assert value.metrics["rewards/revision_margins"].item() == pytest.approx(0.25 * 4.0)
    assert SRPO(beta=0.25, alpha=1)(six()).loss.item() == pytest.approx(0.5)
    assert SRPO(beta=0.25, alpha=0)(six()).loss.item() == pytest.approx(0.25)


def test_population_losses() -> None:
    """p = 3/4, beta = 1/4. (3): the mean of (1/4 - 1)^2 and (-1/4 + 1)^2: 9/16. (4): (1/4 - 6/8)^2 = 1/4.
    (2), alpha = 0.2: 0.8/4 + 0.2 * 9/16 = 0.3125.
    """
    assert SRPO(beta=0.25, alpha=0.2, labels="soft")(six(p=0.75)).loss.item() == pytest.approx(0.3125)


def test_sample_and_population_losses_of_a_certain_pair() -> None:
    """(16) is 4 times (4), (15) twice (3); so alpha there is alpha / (2 - alpha) here, all 4 - 2 alpha times as large."""
    batch, beta = six([0.7, -1.1, 0.2, 0.9, -0.4, 1.6]), 0.3
    for alpha in (0.0, 0.25, 0.5, 1.0):
        soft = SRPO(beta=beta, alpha=alpha / (2 - alpha), labels="soft")(batch).loss
        torch.testing.assert_close(SRPO(beta=beta, alpha=alpha)(batch).loss, (4 - 2 * alpha) * soft)


def test_population_losses_do_not_depend_on_which_response_is_called_chosen() -> None:
    """Renaming w and l swaps the places in each pair, and the two revisions; p becomes 1 - p."""
    w, l, ww, lw, wl, ll = RATIOS
    renamed = six([l, w, ll, wl, lw, ww], p=0.3)
    loss = SRPO(beta=0.25, alpha=0.2, labels="soft")
    torch.testing.assert_close(loss(renamed).loss, loss(six(p=0.7)).loss)


def test_both_parts_vanish_at_the_closed_forms() -> None:
    """Uniform references, two answers, P(w > l) = p: (5) gives log-ratios P(y' > y)/beta up to a constant of y, (11) gives r(y) = -log Z(y)
    up to a constant, with Z(y) = sum_y' pi_ref(y') exp(P(y' > y)/beta). Then (3) and (4) are 0.
    """
    p, beta = 0.8, 0.5
    log_z_w = np.log(0.5 * np.exp(0.5 / beta) + 0.5 * np.exp((1 - p) / beta))
    log_z_l = np.log(0.5 * np.exp(p / beta) + 0.5 * np.exp(0.5 / beta))
    ratios = [
        -log_z_w,
        -log_z_l,
        0.5 / beta - log_z_w,
        (1 - p) / beta - log_z_w,
        p / beta - log_z_l,
        0.5 / beta - log_z_l,
    ]
    assert SRPO(beta=beta, alpha=0.5, labels="soft")(six(ratios, p=p)).loss.item() == pytest.approx(0.0, abs=1e-20)


def test_averaged() -> None:
    """Appendix D: ten tokens per response and log-ratios ten times as large give the same."""
    assert SRPO(beta=0.25, alpha=0.2, average_logps=True)(six(scale=10.0)).loss.item() == pytest.approx(0.3)


def test_what_it_asks_for() -> None:
    assert SRPO.revisions
    assert SRPO().needs == {"reference"}
    assert SRPO().targets(MATRIX, (0, 1)).tolist() == [1.0, 0.0]
    assert SRPO(labels="soft").targets(MATRIX, (0, 1)).tolist() == [0.75, 0.25]
