"""Every response of a group: SPPO's objective (3.6) over all K."""

from __future__ import annotations

from collections.abc import Generator

from raypref.selection.base import Pairs, Picks, Selection, all_pairs, selections
from raypref.types import PreferenceMatrix


@selections.register("all_responses")
class AllResponses(Selection):
    """One example a group, with all of its responses in their order.

    A response with a comparison that the oracle left open is left out; a group with fewer than two others is dropped.
    """

    type: str = "all_responses"

    def choose(self, size: int) -> Generator[Pairs, PreferenceMatrix, Picks]:
        matrix = yield all_pairs(size)
        rows = matrix.complete_rows()
        return [tuple(int(row) for row in rows)] if len(rows) >= 2 else []
