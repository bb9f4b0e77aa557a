"""The seam between a preference matrix and training examples."""

from __future__ import annotations

from collections.abc import Generator
from typing import Self

from raypref.registry import Registry, TypedSection
from raypref.seeds import seed_for
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

    def seeded(self, prompt_seed: int) -> Self:
        """The rule as it works on one prompt. A rule that draws has a field ``seed``, into which the prompt's own seed is mixed here:
        what it draws then depends on the prompt, and neither on the order of prompts nor on the replica that judges them.
        """
        if "seed" not in type(self).model_fields:
            return self
        own: int = self.seed  # type: ignore[attr-defined]  # the rules that draw have it
        return self.model_copy(update={"seed": seed_for(own, "selection", 0, str(prompt_seed))})

    def metrics(self, matrix: PreferenceMatrix) -> dict[str, float]:
        """What the rule counts of a group after ``choose``, averaged over groups: names under ``oracle/``, NaN where one does not apply.

        What the oracle itself is like is counted for every rule (``raypref.judging.diagnostics``).
        """
        return {}


selections: Registry[Selection] = Registry("selection", Selection, "raypref.selection")
