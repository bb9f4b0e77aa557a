"""RPO, regularised preference optimisation (arXiv 2405.16436): DPO and imitation of the chosen response.

Not to be confused with Relative Preference Optimization.

Shapes: B examples of S = 2 sequences, chosen first.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import NonNegativeFloat, PositiveFloat

from raypref.losses.base import Frozen, LossBatch, LossValue, losses
from raypref.losses.terms.margins import preference_metrics
from raypref.losses.terms.pairs import PairLoss, logistic, margin
from raypref.losses.terms.ratios import log_ratios, policy_logps


@losses.register("rpo")
class RPO(PairLoss):
    """-log sigmoid( beta (r_w - r_l) ) - eta beta log pi_theta(y_w | x), r = log pi_theta(y | x) - log pi_ref(y | x).

    Source: RPO, the objective of its Algorithm 2 with the chosen responses as the baseline distribution; SRPO Appendix D scales the
    weight by beta in the same way. TRL's ``rpo_alpha`` (of its DPO) has no counterpart: it weighs the mean over the batch's chosen
    tokens, without beta, beside a DPO term of sums. With ``average_logps`` both terms here are means, without it both are sums.
    """

    type: str = "rpo"
    beta: PositiveFloat = 0.1
    """As in DPO; above 0 (SRPO Appendix D, averaged: 10)."""
    eta: NonNegativeFloat = 0.005
    """Weight of the negative log-likelihood of the chosen response, multiplied by beta; 0 is DPO (SRPO Appendix D: 0.00001)."""
    labels: Literal["hard", "soft"] = "hard"
    """The preference term's label: 1, or the oracle's P(y_w > y_l)."""
    average_logps: bool = False
    """Divide the log-probs in both terms by the number of response tokens (SRPO Appendix D)."""

    needs: ClassVar[frozenset[Frozen]] = frozenset({"reference"})

    @property
    def soft_labels(self) -> bool:
        return self.labels == "soft"

    def __call__(self, batch: LossBatch) -> LossValue:
        r = log_ratios(batch, "reference", average=self.average_logps)
        imitation = -policy_logps(batch, average=self.average_logps)[:, 0]
        loss = logistic(self.beta * margin(r), batch.targets) + self.eta * self.beta * imitation
        return LossValue(loss, preference_metrics(self.beta * r, batch) | {"loss/nll_chosen": imitation.detach()})
