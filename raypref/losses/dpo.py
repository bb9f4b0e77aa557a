"""DPO, direct preference optimisation (arXiv 2305.18290): the pairwise peer of SPPO.

Shapes: B examples of S = 2 sequences, winner first.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat

from raypref.errors import ConfigError
from raypref.losses.base import Frozen, Loss, LossBatch, LossValue, losses
from raypref.losses.margins import margins
from raypref.preferences import Unanswered
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

    @property
    def needs(self) -> frozenset[Frozen]:  # type: ignore[override]  # the one loss whose settings decide
        return frozenset({self.reference})

    def targets(self, matrix: PreferenceMatrix, picked: tuple[int, ...]) -> NDArray[np.float64]:
        """(2,) the label (q, 1 - q).

        Raises:
            Unanswered: the pair's own comparison has no answer.
            ConfigError: the selection does not give pairs.
        """
        if len(picked) != 2:
            raise ConfigError(f"loss.type: 'dpo' needs pairs, the selection gave {len(picked)} responses; set selection.type=best_worst")
        winner, loser = picked
        label = 1.0 if self.labels == "hard" else float(matrix.values[winner, loser])
        if np.isnan(label):
            raise Unanswered(f"the comparison of responses {winner} and {loser} has no answer")
        label = (1.0 - self.label_smoothing) * label + self.label_smoothing * (1.0 - label)
        return np.array([label, 1.0 - label])

    def __call__(self, batch: LossBatch) -> LossValue:
        from torch.nn.functional import logsigmoid

        frozen = batch.reference_logps if self.reference == "reference" else batch.previous_logps
        assert frozen is not None
        log_ratios = batch.logps - frozen
        margin = self.beta * (log_ratios[:, 0] - log_ratios[:, 1])
        labels = batch.targets.to(margin.dtype)
        loss = -labels[:, 0] * logsigmoid(margin) - labels[:, 1] * logsigmoid(-margin)
        return LossValue(loss, margins(log_ratios, batch.targets, batch.mask))
