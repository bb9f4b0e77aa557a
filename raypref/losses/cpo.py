"""CPO, contrastive preference optimisation (arXiv 2401.08417): DPO with a uniform reference, and imitation of the chosen response.

Shapes: B examples of S = 2 sequences, chosen first.
"""

from __future__ import annotations

from pydantic import NonNegativeFloat, PositiveFloat

from raypref.losses.base import LossBatch, LossValue, losses
from raypref.losses.terms.margins import preference_metrics
from raypref.losses.terms.pairs import PairLoss, logistic, margin
from raypref.losses.terms.ratios import policy_logps


@losses.register("cpo")
class CPO(PairLoss):
    """-log sigmoid(beta (log pi(y_w | x) - log pi(y_l | x))) - alpha log pi(y_w | x).

    Source: CPO, L_prefer + L_NLL of its section 3, with alpha = 1; the name alpha from SPO Appendix D.1. The authors' code divides the
    second term by the number of chosen tokens (``average_sft``): theirs of the batch, here of each response.
    """

    type: str = "cpo"
    beta: PositiveFloat = 0.1
    """Steepness of the preference term; above 0."""
    alpha: NonNegativeFloat = 1.0
    """Weight of the negative log-likelihood of the chosen response (the CPO paper: 1; SPO's sweep: 0.0001 to 0.01)."""
    average_sft: bool = False
    """Divide that log-likelihood by the response's tokens, as the authors' code does, instead of taking the sum."""

    def __call__(self, batch: LossBatch) -> LossValue:
        logps = policy_logps(batch)
        imitation = -policy_logps(batch, average=self.average_sft)[:, 0]
        loss = logistic(self.beta * margin(logps), batch.targets) + self.alpha * imitation
        return LossValue(loss, preference_metrics(self.beta * logps, batch) | {"loss/nll_chosen": imitation.detach()})
