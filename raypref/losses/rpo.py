"""RPO, regularised preference optimisation (arXiv 2405.16436): DPO and imitation of the winner. Not Relative Preference Optimization.

Shapes: B examples of S = 2 sequences, winner first.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import NonNegativeFloat, PositiveFloat

from raypref.losses.base import Frozen, Loss, LossBatch, LossValue, losses
from raypref.losses.terms.margins import margins
from raypref.losses.terms.pairs import gap, logistic, pair_labels
from raypref.losses.terms.ratios import log_ratios, policy_logps
from raypref.types import PreferenceMatrix


@losses.register("rpo")
class RPO(Loss):
    """-log sigmoid( beta (r_w - r_l) ) - eta beta log pi_theta(y_w | x), r = log pi_theta(y | x) - log pi_ref(y | x).

    Source: RPO, the objective of its Algorithm 2 with the winners as the baseline distribution; SRPO Appendix D scales the weight by beta
    alike.
    """

    type: str = "rpo"
    beta: PositiveFloat = 0.1
    """As in DPO; above 0 (SRPO Appendix D, averaged: 10)."""
    eta: NonNegativeFloat = 0.005
    """Weight of the winner's negative log-likelihood, times beta; 0 is DPO (SRPO Appendix D: 0.00001)."""
    labels: Literal["hard", "soft"] = "hard"
    """The preference term's label: 1, or the oracle's P(y_w > y_l)."""
    average_logps: bool = False
    """Both terms a token (SRPO Appendix D), instead of summed."""

    needs: ClassVar[frozenset[Frozen]] = frozenset({"reference"})
    responses: ClassVar[tuple[int, int | None]] = (2, 2)

    def targets(self, matrix: PreferenceMatrix, picked: tuple[int, ...]) -> NDArray[np.float64]:
        """(2,) the label (q, 1 - q).

        Raises:
            Unanswered: the label is soft, and the pair's own comparison has no answer.
            ConfigError: the selection does not give pairs.
        """
        return pair_labels(self, matrix, picked, self.labels)

    def __call__(self, batch: LossBatch) -> LossValue:
        r = log_ratios(batch, "reference", average=self.average_logps)
        imitation = -policy_logps(batch, average=self.average_logps)[:, 0]
        loss = logistic(self.beta * gap(r), batch.targets) + self.eta * self.beta * imitation
        return LossValue(loss, margins(r, batch.targets, batch.mask) | {"nll_winner": imitation.detach()})
