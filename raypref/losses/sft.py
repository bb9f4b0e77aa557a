"""Supervised fine-tuning on given answers, which usually comes before preference optimisation.

Shapes: B examples of S sequences (demonstrations: S = 1).
"""

from __future__ import annotations

from typing import Literal

from raypref.losses.base import Loss, LossBatch, LossValue, losses
from raypref.losses.terms.ratios import policy_logps


@losses.register("sft")
class SFT(Loss):
    """-log pi_theta(y | x), summed over response tokens and divided by the response tokens of the global batch (``per: token``), or
    -log pi_theta(y | x) / |y|, the mean over an example's answers and over the examples (``per: answer``).

    The reported loss is thus a mean negative log-likelihood per token, in nats, however the batch is split over ranks. With ``token`` a
    long answer has more weight; with ``answer`` all answers have the same.
    """

    type: str = "sft"
    per: Literal["token", "answer"] = "token"
    """What has the same weight: every token, or every answer."""

    @property
    def reduction(self) -> Literal["examples", "tokens"]:
        return "tokens" if self.per == "token" else "examples"

    def __call__(self, batch: LossBatch) -> LossValue:
        if self.per == "token":
            return LossValue(-policy_logps(batch).sum(dim=1), {})
        return LossValue(-policy_logps(batch, average=True).sum(dim=1) / batch.mask.sum(dim=1), {})
