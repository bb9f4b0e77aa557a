"""SLiC-HF, sequence likelihood calibration (arXiv 2305.10425): a hinge on the log-probs, and imitation of the winner.

Shapes: B examples of S = 2 sequences, winner first.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import NonNegativeFloat

from raypref.losses.base import Loss, LossBatch, LossValue, losses
from raypref.losses.terms.margins import margins
from raypref.losses.terms.pairs import gap, pair_labels
from raypref.losses.terms.ratios import policy_logps
from raypref.types import PreferenceMatrix


@losses.register("slic_hf")
class SLiCHF(Loss):
    """max(0, delta - log pi(y_w | x) + log pi(y_l | x)) - weight log pi(y_w | x).

    Source: SLiC-HF (1), whose lambda is ``weight`` here; it imitates reference answers y_ref, which are the winners here.
    """

    type: str = "slic_hf"
    delta: NonNegativeFloat = 1.0
    """Margin after which the winner is far enough ahead, in nats (averaged: nats a token)."""
    weight: NonNegativeFloat = 0.1
    """lambda, the weight of the winner's negative log-likelihood."""
    average_logps: bool = False
    """Both terms a token, instead of summed."""

    responses: ClassVar[tuple[int, int | None]] = (2, 2)

    def targets(self, matrix: PreferenceMatrix, picked: tuple[int, ...]) -> NDArray[np.float64]:
        """(2,) 1 for the winner, 0 for the loser.

        Raises:
            ConfigError: the selection does not give pairs.
        """
        return pair_labels(self, matrix, picked)

    def __call__(self, batch: LossBatch) -> LossValue:
        logps = policy_logps(batch, average=self.average_logps)
        loss = (self.delta - gap(logps)).clamp(min=0.0) - self.weight * logps[:, 0]
        return LossValue(loss, margins(logps, batch.targets, batch.mask, of="logp_mean" if self.average_logps else "logp"))
