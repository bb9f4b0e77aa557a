"""R-DPO, length-regularised DPO (arXiv 2403.19159): a longer winner has to be better by more than its length explains.

Shapes: B examples of S = 2 sequences, winner first.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import NonNegativeFloat, PositiveFloat

from raypref.losses.base import Frozen, Loss, LossBatch, LossValue, losses
from raypref.losses.terms.margins import margins
from raypref.losses.terms.pairs import gap, logistic, pair_labels
from raypref.losses.terms.ratios import log_ratios
from raypref.types import PreferenceMatrix


@losses.register("r_dpo")
class RDPO(Loss):
    """-log sigmoid( beta (r_w - r_l) + alpha (|y_w| - |y_l|) ), r = log pi_theta(y | x) - log pi_ref(y | x).

    Source: R-DPO, from the reward less alpha |y|: what a Bradley-Terry expert's reward difference then is in terms of the optimal policy.
    A longer winner's margin starts ahead, and so pulls less.
    """

    type: str = "r_dpo"
    beta: PositiveFloat = 0.1
    """As in DPO; above 0."""
    alpha: NonNegativeFloat = 0.01
    """Price of a token, in units of the margin; 0 is DPO (SPO's sweep: 0.001 to 0.1)."""

    needs: ClassVar[frozenset[Frozen]] = frozenset({"reference"})
    responses: ClassVar[tuple[int, int | None]] = (2, 2)

    def targets(self, matrix: PreferenceMatrix, picked: tuple[int, ...]) -> NDArray[np.float64]:
        """(2,) 1 for the winner, 0 for the loser.

        Raises:
            ConfigError: the selection does not give pairs.
        """
        return pair_labels(self, matrix, picked)

    def __call__(self, batch: LossBatch) -> LossValue:
        r = log_ratios(batch, "reference")
        h = self.beta * gap(r) + self.alpha * gap(batch.lengths).to(r.dtype)
        return LossValue(logistic(h, batch.targets), margins(r, batch.targets, batch.mask))
