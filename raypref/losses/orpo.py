"""ORPO, odds-ratio preference optimisation (arXiv 2403.07691): supervised fine-tuning with a preference term, without a reference.

Shapes: B examples of S = 2 sequences, winner first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import NonNegativeFloat

from raypref.losses.base import Loss, LossBatch, LossValue, losses
from raypref.losses.terms.margins import margins
from raypref.losses.terms.pairs import gap, logistic, pair_labels
from raypref.losses.terms.ratios import policy_logps
from raypref.types import PreferenceMatrix

if TYPE_CHECKING:
    from torch import Tensor

NEAREST_TO_CERTAIN = -1e-6
"""Log-prob of a token above which the odds do not grow any more: at 0 they are infinite."""


@losses.register("orpo")
class ORPO(Loss):
    """-log p_w - weight log sigmoid( log odds(p_w) - log odds(p_l) ), odds(p) = p / (1 - p), log p = log pi(y | x) / |y|.

    Source: ORPO (6) and (7), whose lambda is ``weight`` here. The authors' code averages the first term over the batch's tokens; here, as
    in the paper, it is each response's own mean.
    """

    type: str = "orpo"
    weight: NonNegativeFloat = 0.1
    """lambda, the weight of the preference term."""

    responses: ClassVar[tuple[int, int | None]] = (2, 2)

    def targets(self, matrix: PreferenceMatrix, picked: tuple[int, ...]) -> NDArray[np.float64]:
        """(2,) 1 for the winner, 0 for the loser.

        Raises:
            ConfigError: the selection does not give pairs.
        """
        return pair_labels(self, matrix, picked)

    def __call__(self, batch: LossBatch) -> LossValue:
        logps = policy_logps(batch, average=True)
        loss = -logps[:, 0] + self.weight * logistic(gap(log_odds(logps)), batch.targets)
        return LossValue(loss, margins(logps, batch.targets, batch.mask, of="logp_mean"))


def log_odds(logps: Tensor) -> Tensor:
    """log( p / (1 - p) ) = log p - log(-expm1(log p)), for log p at most ``NEAREST_TO_CERTAIN``.

    Args:
        logps: log p, at most 0.
    """
    import torch

    bounded = logps.clamp(max=NEAREST_TO_CERTAIN)
    return bounded - torch.log(-torch.expm1(bounded))
