"""Every response of a group: SPPO's objective (3.6) over all K."""

from __future__ import annotations

from collections.abc import Generator

from raypref.selection.base import Pairs, Picks, Selection, all_pairs, selections
from raypref.types import PreferenceMatrix


@selections.register("all_responses")
class AllResponses(Selection):
    """One example per group, with all its responses in order.

    A response with an unanswered comparison is left out; the group is dropped if fewer than two remain.
    """

    type: str = "all_responses"

    def choose(self, size: int) -> Generator[Pairs, PreferenceMatrix, Picks]:
        matrix = yield all_pairs(size)
        rows = matrix.complete_rows()
        return [tuple(int(row) for row in rows)] if len(rows) >= 2 else []
