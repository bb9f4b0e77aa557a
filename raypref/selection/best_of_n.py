"""The best response of a group before all others: SPO's best-of-n loss (16), S-DPO, best-response SFT."""

from __future__ import annotations

from collections.abc import Generator
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from raypref.preferences import TIE
from raypref.selection.base import Pairs, Picks, Selection, all_pairs, selections
from raypref.selection.rules.standing import By, standing
from raypref.types import PreferenceMatrix


@selections.register("best_of_n")
class BestOfN(Selection):
    """One example per group: the best response first, then the others in their order.

    Source: SPO (16), whose data name the best response i* and do not order the others. If several are best, the first is taken, and
    ``metrics`` counts the group. A response with an unanswered comparison is left out; the group is dropped if fewer than two remain.
    """

    type: str = "best_of_n"
    by: By = "win_rate"
    """The figure that decides: win_rate (mean of P[i, j]), score (mean log-odds), copeland (number of responses beaten)."""
    all_equal: Literal["drop", "keep"] = "drop"
    """A group whose responses are all equal: drop it, or keep it with its first response as the best."""
    others: Literal["keep", "drop"] = "keep"
    """drop: the example is the best response alone, which suffices for best-response SFT."""

    def choose(self, size: int) -> Generator[Pairs, PreferenceMatrix, Picks]:
        matrix = yield all_pairs(size)
        rows = matrix.complete_rows()
        if len(rows) < 2:
            return []
        highest = _highest(matrix, rows, self.by)
        if len(highest) == len(rows) and self.all_equal == "drop":
            return []
        others = () if self.others == "drop" else (int(row) for row in rows if row != highest[0])
        return [(int(highest[0]), *others)]

    def metrics(self, matrix: PreferenceMatrix) -> dict[str, float]:
        """``best_tied``: whether more than one response has the highest figure."""
        rows = matrix.complete_rows()
        tied = float(len(_highest(matrix, rows, self.by)) > 1) if len(rows) >= 2 else float("nan")
        return {"oracle/best_tied": tied}


def _highest(matrix: PreferenceMatrix, rows: NDArray[np.intp], by: By) -> NDArray[np.intp]:
    """The members of ``rows`` with the highest figure, ascending."""
    figures = standing(matrix, rows, by)
    return rows[figures >= figures.max() - TIE]
