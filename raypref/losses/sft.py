"""Supervised fine-tuning on given answers: where every run of the other losses starts from.

Shapes: B examples of S sequences (demonstrations: S = 1).
"""

from __future__ import annotations

from typing import ClassVar, Literal

from raypref.losses.base import Loss, LossBatch, LossValue, losses


@losses.register("sft")
class SFT(Loss):
    """-log pi_theta(y | x), summed over response tokens; the learner divides by the response tokens of the global batch.

    So the reported loss is the mean negative log-likelihood of a token, in nats, whatever the lengths and the split over ranks.
    """

    type: str = "sft"
    reduction: ClassVar[Literal["examples", "tokens"]] = "tokens"

    def __call__(self, batch: LossBatch) -> LossValue:
        return LossValue(-batch.logps.masked_fill(~batch.mask, 0.0).sum(dim=1), {})
