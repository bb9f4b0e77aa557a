"""R-DPO, length-regularised DPO (arXiv 2403.19159): DPO with a penalty on the length of the chosen response.

Shapes: B examples of S = 2 sequences, chosen first.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import NonNegativeFloat, PositiveFloat

from raypref.losses.base import Frozen, LossBatch, LossValue, losses
from raypref.losses.terms.margins import preference_metrics
from raypref.losses.terms.pairs import PairLoss, logistic, margin
from raypref.losses.terms.ratios import log_ratios


@losses.register("r_dpo")
class RDPO(PairLoss):
    """-log sigmoid( beta (r_w - r_l) + alpha (|y_w| - |y_l|) ), r = log pi_theta(y | x) - log pi_ref(y | x).

    Source: R-DPO, the DPO derivation with the reward minus alpha |y| in place of the reward. If the chosen response is the longer one, its
    margin is raised, so that the gradient is smaller.
    """

    type: str = "r_dpo"
    beta: PositiveFloat = 0.1
    """As in DPO; above 0."""
    alpha: NonNegativeFloat = 0.01
    """Penalty per token, in units of the margin; 0 is DPO (SPO's sweep: 0.001 to 0.1)."""

    needs: ClassVar[frozenset[Frozen]] = frozenset({"reference"})

    def __call__(self, batch: LossBatch) -> LossValue:
        r = log_ratios(batch, "reference")
        h = self.beta * margin(r) + self.alpha * margin(batch.lengths).to(r.dtype)
        return LossValue(logistic(h, batch.targets), preference_metrics(self.beta * r, batch))
