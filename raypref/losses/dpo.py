"""DPO, direct preference optimisation (arXiv 2305.18290): the pairwise peer of SPPO.

Shapes: B examples of S = 2 sequences, winner first.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat

from raypref.losses.base import Frozen, Loss, LossBatch, LossValue, losses
from raypref.losses.terms.margins import margins
from raypref.losses.terms.pairs import gap, logistic, pair_labels
from raypref.losses.terms.ratios import log_ratios
from raypref.types import PreferenceMatrix


@losses.register("dpo")
class DPO(Loss):
    """-q log sigmoid(h) - (1 - q) log sigmoid(-h), h = beta (r_w - r_l), r = log pi_theta(y | x) - log pi_frozen(y | x).

    Source: DPO (7), with q = 1; SPPO (E.2) with beta = 1/eta. ``reference: previous`` makes it the iterative DPO of the SPPO and DNO
    papers (DNO-Prct), whose reference is the policy that sampled the responses. q below 1: conservative DPO (Mitchell 2023).
    """

    type: str = "dpo"
    beta: PositiveFloat = 0.1
    """Inverse size of the step away from the frozen policy; above 0."""
    reference: Literal["reference", "previous"] = "reference"
    """The frozen policy: the run's first one (pi_ref), or the iteration's (pi_t)."""
    labels: Literal["hard", "soft"] = "hard"
    """q: 1, or the oracle's P(y_w > y_l)."""
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """Chance that a label is the wrong way round: q becomes (1 - s) q + s (1 - q)."""
    average_logps: bool = False
    """r divided by the response's tokens (the averaged variant of SRPO Appendix D, there with beta = 10)."""

    responses: ClassVar[tuple[int, int | None]] = (2, 2)

    @property
    def needs(self) -> frozenset[Frozen]:  # type: ignore[override]  # the settings decide
        return frozenset({self.reference})

    def targets(self, matrix: PreferenceMatrix, picked: tuple[int, ...]) -> NDArray[np.float64]:
        """(2,) the label (q, 1 - q).

        Raises:
            Unanswered: the label is soft, and the pair's own comparison has no answer.
            ConfigError: the selection does not give pairs.
        """
        labels = pair_labels(self, matrix, picked, self.labels)
        return (1.0 - self.label_smoothing) * labels + self.label_smoothing * labels[::-1]

    def __call__(self, batch: LossBatch) -> LossValue:
        r = log_ratios(batch, self.reference, average=self.average_logps)
        return LossValue(logistic(self.beta * gap(r), batch.targets), margins(r, batch.targets, batch.mask))
