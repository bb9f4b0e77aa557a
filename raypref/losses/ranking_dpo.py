"""DPO on rankings, under the Plackett-Luce model.

Shapes: B examples of S sequences, from the best to the worst.
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


@losses.register("ranking_dpo")
class RankingDPO(Loss):
    """-log prod_k exp(beta r_k) / sum_{j >= k} exp(beta r_j), r = log pi_theta(y | x) - log pi_ref(y | x).

    Source: DPO Appendix A.3 (20); with two responses it is DPO.
    """

    type: str = "ranking_dpo"
    beta: PositiveFloat = 0.1
    """As in DPO; above 0 (SPO's sweep: 0.0001 to 0.01)."""

    needs: ClassVar[frozenset[Frozen]] = frozenset({"reference"})
    responses: ClassVar[tuple[int, int | None]] = (2, None)

    def targets(self, matrix: PreferenceMatrix, picked: tuple[int, ...]) -> NDArray[np.float64]:
        """(S,) 0, -1, ..., 1 - S from best to worst.

        Raises:
            ConfigError: the selection gives single responses.
        """
        check_count(self, picked)
        return -np.arange(len(picked), dtype=np.float64)

    def __call__(self, batch: LossBatch) -> LossValue:
        r = log_ratios(batch, "reference")
        return LossValue(choice_terms(self.beta * r, batch.mask).sum(dim=1), preference_metrics(self.beta * r, batch))
