"""IPO, identity preference optimisation (arXiv 2310.12036): DPO with a squared error in place of the logistic one.

Shapes: B examples of S = 2 sequences, winner first.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveFloat

from raypref.losses.base import Frozen, Loss, LossBatch, LossValue, losses
from raypref.losses.terms.margins import margins
from raypref.losses.terms.pairs import gap, pair_labels, regression
from raypref.losses.terms.ratios import log_ratios
from raypref.types import PreferenceMatrix


@losses.register("ipo")
class IPO(Loss):
    """q (h - 1/(2 tau))^2 + (1 - q) (h + 1/(2 tau))^2, h = r_w - r_l, r = log pi_theta(y | x) - log pi_frozen(y | x).

    Source: IPO (17), with q = 1. SPPO (E.3), ((a - b) - 1)^2 with a - b = h/eta, is 1/eta^2 times this at tau = 1/(2 eta).
    ``reference: previous`` makes it the iterative IPO of the SPPO paper.
    """

    type: str = "ipo"
    tau: PositiveFloat = 0.1
    """Strength of the pull to the frozen policy; above 0. The margin that is aimed at is 1/(2 tau) nats (averaged: nats a token)."""
    reference: Literal["reference", "previous"] = "reference"
    """The frozen policy: the run's first one (pi_ref), or the iteration's (pi_t)."""
    labels: Literal["hard", "soft"] = "hard"
    """q: 1, or the oracle's P(y_w > y_l)."""
    average_logps: bool = False
    """r divided by the response's tokens (the averaged variant of SRPO Appendix D, there with a beta of 1)."""

    responses: ClassVar[tuple[int, int | None]] = (2, 2)

    @property
    def needs(self) -> frozenset[Frozen]:  # type: ignore[override]  # the settings decide
        return frozenset({self.reference})

    def targets(self, matrix: PreferenceMatrix, picked: tuple[int, ...]) -> NDArray[np.float64]:
        """(2,) the label (q, 1 - q).

        Raises:
            Unanswered: the label is soft, and the pair's own comparison has no answer.
            ConfigError: the selection does not give pairs.
        """
        return pair_labels(self, matrix, picked, self.labels)

    def __call__(self, batch: LossBatch) -> LossValue:
        r = log_ratios(batch, self.reference, average=self.average_logps)
        return LossValue(regression(gap(r), 1.0 / (2.0 * self.tau), batch.targets), margins(r, batch.targets, batch.mask))
