"""CPO, contrastive preference optimisation (arXiv 2401.08417): DPO with a uniform reference, and imitation of the winner.

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


@losses.register("cpo")
class CPO(Loss):
    """-log sigmoid(beta (log pi(y_w | x) - log pi(y_l | x))) - alpha log pi(y_w | x).

    Source: CPO, L_prefer + L_NLL of its section 3, with alpha = 1; the name alpha from SPO Appendix D.1. The authors' code divides the
    second term by the winner's tokens (``average_sft``; theirs over the batch, here over each response).
    """

    type: str = "cpo"
    beta: PositiveFloat = 0.1
    """Steepness of the preference term; above 0."""
    alpha: NonNegativeFloat = 1.0
    """Weight of the winner's negative log-likelihood (the CPO paper: 1; SPO's sweep: 0.0001 to 0.01)."""
    average_sft: bool = False
    """The winner's negative log-likelihood a token, as the authors' code has it, instead of its sum."""

    responses: ClassVar[tuple[int, int | None]] = (2, 2)

    def targets(self, matrix: PreferenceMatrix, picked: tuple[int, ...]) -> NDArray[np.float64]:
        """(2,) 1 for the winner, 0 for the loser.

        Raises:
            ConfigError: the selection does not give pairs.
        """
        return pair_labels(self, matrix, picked)

    def __call__(self, batch: LossBatch) -> LossValue:
        logps = policy_logps(batch)
        imitation = -policy_logps(batch, average=self.average_sft)[:, 0]
        loss = logistic(self.beta * gap(logps), batch.targets) + self.alpha * imitation
        return LossValue(loss, margins(logps, batch.targets, batch.mask, of="logp") | {"nll_winner": imitation.detach()})
