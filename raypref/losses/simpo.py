"""SimPO (arXiv 2405.14734): the mean log-prob of a token is the reward, without a reference, and must win by a margin.

Shapes: B examples of S = 2 sequences, winner first.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import NonNegativeFloat, PositiveFloat

from raypref.losses.base import Loss, LossBatch, LossValue, losses
from raypref.losses.terms.margins import margins
from raypref.losses.terms.pairs import gap, logistic, pair_labels
from raypref.losses.terms.ratios import policy_logps
from raypref.types import PreferenceMatrix


@losses.register("simpo")
class SimPO(Loss):
    """-log sigmoid( (beta/|y_w|) log pi(y_w | x) - (beta/|y_l|) log pi(y_l | x) - gamma ).

    Source: SimPO (6).
    """

    type: str = "simpo"
    beta: PositiveFloat = 2.0
    """Scale of the reward; above 0 (SPO's sweep: 2, 2.5; SRPO Appendix D: 50)."""
    gamma: NonNegativeFloat = 1.0
    """Margin that the winner's reward must have over the loser's (SPO's sweep: 1, 1.5)."""

    responses: ClassVar[tuple[int, int | None]] = (2, 2)

    def targets(self, matrix: PreferenceMatrix, picked: tuple[int, ...]) -> NDArray[np.float64]:
        """(2,) 1 for the winner, 0 for the loser.

        Raises:
            ConfigError: the selection does not give pairs.
        """
        return pair_labels(self, matrix, picked)

    def __call__(self, batch: LossBatch) -> LossValue:
        logps = policy_logps(batch, average=True)
        h = self.beta * gap(logps) - self.gamma
        return LossValue(logistic(h, batch.targets), margins(logps, batch.targets, batch.mask, of="logp_mean"))
