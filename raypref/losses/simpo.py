"""SimPO (arXiv 2405.14734): the reward is the mean log-prob per token, without a reference, and the pair must differ by a target margin.

Shapes: B examples of S = 2 sequences, chosen first.
"""

from __future__ import annotations

from pydantic import NonNegativeFloat, PositiveFloat

from raypref.losses.base import LossBatch, LossValue, losses
from raypref.losses.terms.margins import preference_metrics
from raypref.losses.terms.pairs import PairLoss, logistic, margin
from raypref.losses.terms.ratios import policy_logps


@losses.register("simpo")
class SimPO(PairLoss):
    """-log sigmoid( (beta/|y_w|) log pi(y_w | x) - (beta/|y_l|) log pi(y_l | x) - gamma ).

    Source: SimPO (6).
    """

    type: str = "simpo"
    beta: PositiveFloat = 2.0
    """Scale of the reward; above 0 (SPO's sweep: 2, 2.5; SRPO Appendix D: 50)."""
    gamma: NonNegativeFloat = 1.0
    """Target margin between the rewards of the chosen and the rejected response (SPO's sweep: 1, 1.5)."""

    def __call__(self, batch: LossBatch) -> LossValue:
        logps = policy_logps(batch, average=True)
        h = self.beta * margin(logps) - self.gamma
        return LossValue(logistic(h, batch.targets), preference_metrics(self.beta * logps, batch))
