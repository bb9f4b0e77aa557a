"""The best and the worst response of a group, the pair of the SPPO paper and of iterative DPO."""

from __future__ import annotations

from collections.abc import Generator
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from raypref.preferences import TIE
from raypref.selection.base import Pairs, Picks, Selection, all_pairs, selections
from raypref.selection.rules.standing import By, standing
from raypref.types import PreferenceMatrix


@selections.register("best_worst")
class BestWorst(Selection):
    """One pair per group: (argmax_i, argmin_i) of the win rate, of the mean score, or of Copeland's count.

    Source: SPPO section 5.1 and Appendix F (``by: score``). Of equal responses the first is taken. A response with an unanswered comparison
    is left out; the group is dropped if fewer than two remain.
    """

    type: str = "best_worst"
    by: By = "win_rate"
    """win_rate: mean of P[i, j]; score: mean of log(P[i, j] / P[j, i]), the paper's mean PairRM score; copeland: responses beaten."""
    all_equal: Literal["drop", "keep"] = "drop"
    """A group whose responses are all equal: drop it, or keep its first two responses as the pair."""

    def choose(self, size: int) -> Generator[Pairs, PreferenceMatrix, Picks]:
        matrix = yield all_pairs(size)
        rows = matrix.complete_rows()
        if len(rows) < 2:
            return []
        figures = standing(matrix, rows, self.by)
        best, worst = _first_highest(figures), _first_highest(-figures)
        if best == worst:
            return [] if self.all_equal == "drop" else [(int(rows[0]), int(rows[1]))]
        return [(int(rows[best]), int(rows[worst]))]


def _first_highest(figures: NDArray[np.float64]) -> int:
    return int(np.flatnonzero(figures >= figures.max() - TIE)[0])
