"""IPO, identity preference optimisation (arXiv 2310.12036): DPO with a squared error in place of the logistic one.

Shapes: B examples of S = 2 sequences, chosen first.
"""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveFloat

from raypref.losses.base import Frozen, LossBatch, LossValue, losses
from raypref.losses.terms.margins import preference_metrics
from raypref.losses.terms.pairs import PairLoss, margin, regression
from raypref.losses.terms.ratios import log_ratios


@losses.register("ipo")
class IPO(PairLoss):
    """q (h - 1/(2 tau))^2 + (1 - q) (h + 1/(2 tau))^2, h = r_w - r_l, r = log pi_theta(y | x) - log pi_frozen(y | x).

    Source: IPO (17), with q = 1. SPPO (E.3), ((a - b) - 1)^2 with a - b = h/eta, is 1/eta^2 times this at tau = 1/(2 eta).
    ``reference: previous`` makes it the iterative IPO of the SPPO paper.
    """

    type: str = "ipo"
    tau: PositiveFloat = 0.1
    """Strength of the pull to the frozen policy; above 0. The target margin is 1/(2 tau) nats (averaged: nats per token)."""
    reference: Literal["reference", "previous"] = "reference"
    """The frozen policy: pi_ref, or the previous policy pi_t."""
    labels: Literal["hard", "soft"] = "hard"
    """q: 1, or the oracle's P(y_w > y_l)."""
    average_logps: bool = False
    """Divide r by the number of response tokens (the averaged variant of SRPO Appendix D, there with beta = 1)."""

    @property
    def needs(self) -> frozenset[Frozen]:
        return frozenset({self.reference})

    @property
    def soft_labels(self) -> bool:
        return self.labels == "soft"

    def __call__(self, batch: LossBatch) -> LossValue:
        r = log_ratios(batch, self.reference, average=self.average_logps)
        return LossValue(regression(margin(r), 1.0 / (2.0 * self.tau), batch.targets), preference_metrics(self.tau * r, batch))
