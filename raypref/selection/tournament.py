"""The best and the worst of a group by a knock-out tournament, with 11 comparisons for 8 responses: INPO's selection."""

from __future__ import annotations

from collections.abc import Generator, Sequence

import numpy as np

from raypref.preferences import TIE, Matrix, has_cycle
from raypref.selection.base import Pairs, Picks, Selection, selections
from raypref.types import PreferenceMatrix


@selections.register("tournament")
class Tournament(Selection):
    """One pair a group: the winner of the winners' bracket and the loser of the losers' bracket.

    Source: INPO section 4.1, K = 8. The responses meet in pairs, (0, 1), (2, 3), ...; then winners meet winners and losers meet losers
    until one is left of each, y_w and y_l; last, y_w meets y_l, and the pair is kept only if y_w wins. A tie goes to the first, except
    in that last comparison, which a tie does not win. A Condorcet winner always wins.

    Comparisons: 3 K / 2 - 1 for even K, so 11 for 8; one less when the last two met before, whose answer then stands. The paper has
    powers of two only: here the last response of a bracket of odd length goes on without a comparison, from the first round into both
    brackets, which makes (3 K - 1) / 2 comparisons at most for odd K. Should it come out as both y_w and y_l, there is no pair. Where the
    oracle abstains on a comparison that the tournament comes to, the group is dropped.
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
        """``cycle``: whether the comparisons asked hold one, as they do whenever y_l beats y_w and nothing was tied."""
        return {"oracle/cycle": float(has_cycle(matrix.values))}


def _meetings(bracket: Sequence[int]) -> Pairs:
    """First against second, third against fourth, ...; brackets are ascending, so each is (i, j) with i < j."""
    return list(zip(bracket[::2], bracket[1::2], strict=False))


def _survivors(bracket: Sequence[int], values: Matrix, *, winners: bool) -> list[int]:
    """Who of each meeting goes on, and the last of an odd bracket; the first wins a tie."""
    stays = [i if (values[i, j] >= 0.5 - TIE) == winners else j for i, j in _meetings(bracket)]
    return stays + list(bracket[2 * len(stays) :])
