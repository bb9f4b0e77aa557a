"""Matrices for tests of selections, and a selection run on a matrix of which it sees only what it asks for."""

import numpy as np

from raypref.preferences import Matrix, unknown
from raypref.selection import base
from raypref.selection.base import Pairs, Picks, Selection, run_now
from raypref.types import PreferenceMatrix


def play(selection: Selection, hidden: Matrix) -> tuple[Picks, Pairs, PreferenceMatrix]:
    """The picks, the comparisons asked in their order (each once), and the final matrix."""
    seen = unknown(len(hidden))
    asked: Pairs = []

    async def answers(wanted: Pairs) -> PreferenceMatrix:
        for i, j in wanted:
            if (i, j) not in asked:
                asked.append((i, j))
            seen[i, j], seen[j, i] = hidden[i, j], hidden[j, i]
        return PreferenceMatrix(seen.copy(), "hidden")

    picks = run_now(base.play(selection, len(hidden), answers))
    return picks, asked, PreferenceMatrix(seen, "hidden")


def beats(size: int, *wins: tuple[int, int], chance: float = 0.9) -> Matrix:
    """All ties, but for ``chance`` where the first of a pair beats the second."""
    values = np.full((size, size), 0.5)
    for i, j in wins:
        values[i, j], values[j, i] = chance, 1 - chance
    return values


def in_order(*best_first: int) -> Matrix:
    """Each response beats all that come after it."""
    size = len(best_first)
    return beats(size, *((best_first[a], best_first[b]) for a in range(size) for b in range(a + 1, size)))


def random_matrix(size: int, seed: int) -> Matrix:
    """Complete, with verdicts uniform in (0, 1), which are rarely transitive."""
    upper = np.triu(np.random.default_rng(seed).random((size, size)), 1)
    return upper + np.tril(1 - upper.T, -1) + np.eye(size) / 2
