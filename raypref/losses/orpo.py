"""ORPO, odds-ratio preference optimisation (arXiv 2403.07691): supervised fine-tuning with a preference term, without a reference.

Shapes: B examples of S = 2 sequences, chosen first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import NonNegativeFloat

from raypref.losses.base import LossBatch, LossValue, losses
from raypref.losses.terms.margins import preference_metrics
from raypref.losses.terms.pairs import PairLoss, logistic, margin
from raypref.losses.terms.ratios import policy_logps

if TYPE_CHECKING:
    from torch import Tensor

LARGEST_LOGP = -1e-6
"""Upper bound of a mean log-prob when odds are computed: at 0 the odds are infinite."""


@losses.register("orpo")
class ORPO(PairLoss):
    """-log p_w - weight log sigmoid( log odds(p_w) - log odds(p_l) ), odds(p) = p / (1 - p), log p = log pi(y | x) / |y|.

    Source: ORPO (6) and (7), whose lambda is ``weight`` here. The first term of the authors' code is the mean over the batch's tokens, the
    prompt's among them: it imitates prompts, too. Here, as in the paper, it is the mean over the tokens of each response.
    """

    type: str = "orpo"
    weight: NonNegativeFloat = 0.1
    """lambda, the weight of the preference term."""

    def __call__(self, batch: LossBatch) -> LossValue:
        logps = policy_logps(batch, average=True)
        loss = -logps[:, 0] + self.weight * logistic(margin(log_odds(logps)), batch.targets)
        return LossValue(loss, preference_metrics(logps, batch))


def log_odds(logps: Tensor) -> Tensor:
    """log( p / (1 - p) ) = log p - log(-expm1(log p)), for log p at most ``LARGEST_LOGP``.

    Args:
        logps: log p, at most 0.
    """
    import torch

    bounded = logps.clamp(max=LARGEST_LOGP)
    return bounded - torch.log(-torch.expm1(bounded))
