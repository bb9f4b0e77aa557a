"""All responses of a group from the best to the worst: SPO's ranking loss (17), ranking DPO, S-DPO."""

from __future__ import annotations

from collections.abc import Generator
from typing import Literal

import numpy as np

from raypref.preferences import TIE
from raypref.selection.base import Pairs, Picks, Selection, all_pairs, selections
from raypref.selection.rules.standing import By, descending, standing
from raypref.types import PreferenceMatrix


@selections.register("ranking")
class Ranking(Selection):
    """One example per group, (y_tau(1), ..., y_tau(K)) with the best first; or one per response but the last, with those below it.

    Source: SPO (17); ``examples: tails`` is how SPO Appendix D.2 trains S-DPO on rankings. In the paper an annotator gives the
    rankings; here they are derived from comparisons, which may contain ties and cycles. Of equal responses the first comes first; ``by``
    decides how a cycle is ranked; ``metrics`` counts both. A response with an unanswered comparison is left out; the group is dropped if
    fewer than two remain.
    """

    type: str = "ranking"
    by: By = "win_rate"
    """The figure that ranks: win_rate (mean of P[i, j]), score (mean log-odds), copeland (number of responses beaten)."""
    examples: Literal["whole", "tails"] = "whole"
    """whole: one example with the whole ranking; tails: (1..K), (2..K), ..., (K-1, K), each with its chosen response first."""
    all_equal: Literal["drop", "keep"] = "drop"
    """A group whose responses are all equal: drop it, or keep it in the order of the responses."""

    def choose(self, size: int) -> Generator[Pairs, PreferenceMatrix, Picks]:
        matrix = yield all_pairs(size)
        rows = matrix.complete_rows()
        if len(rows) < 2:
            return []
        order, equal = descending(standing(matrix, rows, self.by))
        if equal == len(rows) - 1 and self.all_equal == "drop":
            return []
        ranked = tuple(int(row) for row in rows[order])
        return [ranked[k:] for k in range(len(ranked) - 1)] if self.examples == "tails" else [ranked]

    def examples_at_most(self, size: int) -> int:
        return size - 1 if self.examples == "tails" else 1

    def metrics(self, matrix: PreferenceMatrix) -> dict[str, float]:
        """``rank_ties``: the share of neighbours in the ranking that are equal; ``rank_upsets``: the share of comparisons that the
        response with the lower rank wins, as happens in a cycle.
        """
        rows = matrix.complete_rows()
        counts = {"oracle/rank_ties": float("nan"), "oracle/rank_upsets": float("nan")}
        if len(rows) >= 2:
            order, equal = descending(standing(matrix, rows, self.by))
            ranked = rows[order]
            chances = np.array([matrix.values[ranked[i], ranked[j]] for i, j in all_pairs(len(ranked))])
            upsets = float(np.mean(chances[~np.isnan(chances)] < 0.5 - TIE))
            counts = {"oracle/rank_ties": equal / (len(rows) - 1), "oracle/rank_upsets": upsets}
        return counts
