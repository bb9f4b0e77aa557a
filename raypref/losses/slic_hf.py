"""SLiC-HF, sequence likelihood calibration (arXiv 2305.10425): a hinge on the log-probs, and imitation of the chosen response.

Shapes: B examples of S = 2 sequences, chosen first.
"""

from __future__ import annotations

from pydantic import NonNegativeFloat

from raypref.losses.base import LossBatch, LossValue, losses
from raypref.losses.terms.margins import preference_metrics
from raypref.losses.terms.pairs import PairLoss, margin
from raypref.losses.terms.ratios import policy_logps


@losses.register("slic_hf")
class SLiCHF(PairLoss):
    """max(0, delta - log pi(y_w | x) + log pi(y_l | x)) - weight log pi(y_w | x).

    Source: SLiC-HF (1), whose lambda is ``weight`` here; it imitates reference answers y_ref, here the chosen responses.
    """

    type: str = "slic_hf"
    delta: NonNegativeFloat = 1.0
    """Margin at which the hinge term becomes 0, in nats (averaged: nats per token)."""
    weight: NonNegativeFloat = 0.1
    """lambda, the weight of the negative log-likelihood of the chosen response."""
    average_logps: bool = False
    """Divide the log-probs in both terms by the number of response tokens."""

    def __call__(self, batch: LossBatch) -> LossValue:
        logps = policy_logps(batch, average=self.average_logps)
        loss = (self.delta - margin(logps)).clamp(min=0.0) - self.weight * logps[:, 0]
        return LossValue(loss, preference_metrics(logps, batch))
