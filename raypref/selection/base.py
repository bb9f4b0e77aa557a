"""The seam between a preference matrix and training examples."""

from __future__ import annotations

from collections.abc import Generator

from raypref.registry import Registry
from raypref.section import TypedSection
from raypref.types import PreferenceMatrix

Pairs = list[tuple[int, int]]
"""Unordered comparisons to ask for: (i, j) with i < j."""
Picks = list[tuple[int, ...]]
"""One tuple of response indices for each training example; a pair is (winner, loser)."""


def all_pairs(size: int) -> Pairs:
    """Every comparison among ``size`` responses: K (K - 1) / 2 of them."""
    return [(i, j) for i in range(size) for j in range(i + 1, size)]


class Selection(TypedSection):
    """Which comparisons are asked of the oracle, and which responses become training examples.

    ``choose`` is a generator: it yields the comparisons that it wants, is sent the matrix with all that is known so far, may ask again,
    and returns its picks. A rule that needs the whole matrix asks once:

    >>> def choose(self, size):
    ...     matrix = yield all_pairs(size)
    ...     return [(0, 1)]
    """

    def choose(self, size: int) -> Generator[Pairs, PreferenceMatrix, Picks]:
        """Pick from a group of ``size`` >= 2 responses; an empty list drops the group."""
        raise NotImplementedError

    def examples_at_most(self, size: int) -> int:
        """The most examples that a group of ``size`` responses can give; the learning rate's horizon is computed from it."""
        return 1


selections: Registry[Selection] = Registry("selection", Selection, "raypref.selection")
