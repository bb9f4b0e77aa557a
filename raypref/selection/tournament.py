"""INPO's selection: the best and the worst of a group by a knock-out tournament, with 11 comparisons for 8 responses."""

from __future__ import annotations

from collections.abc import Generator, Sequence

import numpy as np

from raypref.preferences import TIE, Matrix, has_cycle
from raypref.selection.base import Pairs, Picks, Selection, selections
from raypref.types import PreferenceMatrix


@selections.register("tournament")
class Tournament(Selection):
    """One pair per group: the winner of the winners' bracket and the loser of the losers' bracket.

    Source: INPO section 4.1, K = 8. The responses meet in pairs, (0, 1), (2, 3), ...; then winners meet winners and losers meet losers
    until one is left of each, y_w and y_l; last, y_w meets y_l, and the pair is kept only if y_w wins. In a tie the first wins, except in
    the last comparison, which y_w must win. A Condorcet winner always wins.

    Comparisons: 3 K / 2 - 1 for even K, so 11 for 8; one less if the last two met before, since that answer is used again. The paper has
    powers of two only. Here the last response of a bracket of odd length advances without a comparison, from the first round into both
    brackets, which makes at most (3 K - 1) / 2 comparisons for odd K. If it ends as both y_w and y_l, there is no pair. The group is
    dropped if the oracle abstains on a comparison that the tournament needs.
    """

    type: str = "tournament"

    def choose(self, size: int) -> Generator[Pairs, PreferenceMatrix, Picks]:
        winners = losers = list(range(size))
        while len(winners) > 1:
            meetings = sorted({*_meetings(winners), *_meetings(losers)})
            values = (yield meetings).values
            if any(np.isnan(values[pair]) for pair in meetings):
                return []
            winners, losers = _survivors(winners, values, winners=True), _survivors(losers, values, winners=False)
        best, worst = winners[0], losers[0]
        if best == worst:
            return []
        values = (yield [(min(best, worst), max(best, worst))]).values
        return [(best, worst)] if values[best, worst] > 0.5 + TIE else []

    def metrics(self, matrix: PreferenceMatrix) -> dict[str, float]:
        """``cycle``: whether the answers contain a cycle, as they do whenever y_l beats y_w and there was no tie."""
        return {"oracle/cycle": float(has_cycle(matrix.values))}


def _meetings(bracket: Sequence[int]) -> Pairs:
    """First against second, third against fourth, ...; brackets are ascending, so each is (i, j) with i < j."""
    return list(zip(bracket[::2], bracket[1::2], strict=False))


def _survivors(bracket: Sequence[int], values: Matrix, *, winners: bool) -> list[int]:
    """The responses that advance: one per meeting, and the last of an odd bracket; the first wins a tie."""
    advancing = [i if (values[i, j] >= 0.5 - TIE) == winners else j for i, j in _meetings(bracket)]
    return advancing + list(bracket[2 * len(advancing) :])
