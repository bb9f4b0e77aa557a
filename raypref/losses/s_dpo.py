"""S-DPO, softmax DPO (arXiv 2406.09215): one chosen response against several rejected ones at once.

Shapes: B examples of S sequences, chosen first.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveFloat

from raypref.losses.base import Frozen, Loss, LossBatch, LossValue, losses
from raypref.losses.terms.choices import choice_terms
from raypref.losses.terms.margins import preference_metrics
from raypref.losses.terms.pairs import check_count
from raypref.losses.terms.ratios import log_ratios
from raypref.types import PreferenceMatrix


@losses.register("s_dpo")
class SDPO(Loss):
    """-log sigmoid( -log sum_{l != w} exp(beta (r_l - r_w)) ) = -log softmax(beta r)_w, r = log pi_theta(y | x) - log pi_ref(y | x).

    Source: S-DPO's objective; with one rejected response it is DPO. On a ranking, SPO Appendix D.2 makes one example of each place and
    those below it (``selection: {type: ranking, examples: tails}``).
    """

    type: str = "s_dpo"
    beta: PositiveFloat = 0.1
    """As in DPO; above 0 (SPO's sweep: 0.0001 to 0.01)."""

    needs: ClassVar[frozenset[Frozen]] = frozenset({"reference"})
    responses: ClassVar[tuple[int, int | None]] = (2, None)

    def targets(self, matrix: PreferenceMatrix, picked: tuple[int, ...]) -> NDArray[np.float64]:
        """(S,) 1 for the chosen response, 0 for the others.

        Raises:
            ConfigError: the selection gives single responses.
        """
        check_count(self, picked)
        return (np.arange(len(picked)) == 0).astype(np.float64)

    def __call__(self, batch: LossBatch) -> LossValue:
        r = log_ratios(batch, "reference")
        return LossValue(choice_terms(self.beta * r, batch.mask)[:, 0], preference_metrics(self.beta * r, batch))
