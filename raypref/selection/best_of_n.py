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
    """One example a group: the best response first, the others behind it in their order.

    Source: SPO (16), whose data name i* and say nothing about the others. Of several best ones the first is taken, and such groups are
    counted. A response with a comparison that the oracle left open is left out; a group with fewer than two others is dropped.
    """

    type: str = "best_of_n"
    by: By = "win_rate"
    """What makes the best: win_rate (mean of P[i, j]), score (mean log-odds), copeland (how many are beaten)."""
    all_equal: Literal["drop", "keep"] = "drop"
    """A group in which nothing is better than anything else: drop it, or keep it with its first response as the best."""
    others: Literal["keep", "drop"] = "keep"
    """drop: the best alone is the example, which is all that best-response SFT trains on."""

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
    """Those of ``rows`` whose figure is the highest, ascending."""
    figures = standing(matrix, rows, by)
    return rows[figures >= figures.max() - TIE]
