"""DPO, direct preference optimisation (arXiv 2305.18290): a logistic loss on the pair's log-ratio margin.

Shapes: B examples of S = 2 sequences, chosen first.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat

from raypref.losses.base import Frozen, LossBatch, LossValue, losses
from raypref.losses.terms.margins import preference_metrics
from raypref.losses.terms.pairs import PairLoss, logistic, margin
from raypref.losses.terms.ratios import log_ratios
from raypref.types import PreferenceMatrix


@losses.register("dpo")
class DPO(PairLoss):
    """-q log sigmoid(h) - (1 - q) log sigmoid(-h), h = beta (r_w - r_l), r = log pi_theta(y | x) - log pi_frozen(y | x).

    Source: DPO (7), with q = 1; SPPO (E.2) with beta = 1/eta. ``reference: previous`` makes it the iterative DPO of the SPPO and DNO
    papers (DNO-Prct), whose reference is the policy that sampled the responses. q below 1: conservative DPO (Mitchell 2023).
    """

    type: str = "dpo"
    beta: PositiveFloat = 0.1
    """Inverse size of the step away from the frozen policy; above 0."""
    reference: Literal["reference", "previous"] = "reference"
    """The frozen policy: pi_ref, or the previous policy pi_t."""
    labels: Literal["hard", "soft"] = "hard"
    """q: 1, or the oracle's P(y_w > y_l)."""
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """Probability that a label is swapped, in [0, 0.5): q becomes (1 - s) q + s (1 - q)."""
    average_logps: bool = False
    """Divide r by the number of response tokens (the averaged variant of SRPO Appendix D, there with beta = 10)."""

    @property
    def needs(self) -> frozenset[Frozen]:
        return frozenset({self.reference})

    @property
    def soft_labels(self) -> bool:
        return self.labels == "soft"

    def targets(self, matrix: PreferenceMatrix, picked: tuple[int, ...]) -> NDArray[np.float64]:
        """(2,) the label (q, 1 - q), smoothed. Errors as in ``PairLoss.targets``."""
        label = super().targets(matrix, picked)
        return (1.0 - self.label_smoothing) * label + self.label_smoothing * label[::-1]

    def __call__(self, batch: LossBatch) -> LossValue:
        r = log_ratios(batch, self.reference, average=self.average_logps)
        return LossValue(logistic(self.beta * margin(r), batch.targets), preference_metrics(self.beta * r, batch))
