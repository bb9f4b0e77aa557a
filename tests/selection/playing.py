"""A selection played against a matrix that is hidden from it but for what it asks."""

import numpy as np

from raypref.preferences import unknown
from raypref.selection.base import Pairs, Picks, Selection
from raypref.types import PreferenceMatrix


def play(selection: Selection, hidden: np.ndarray) -> tuple[Picks, Pairs, PreferenceMatrix]:
    """The picks, the comparisons asked in their order (each once), and the matrix in the end; as the judge plays, without checks."""
    seen, asked = unknown(len(hidden)), []
    choosing = selection.choose(len(hidden))
    try:
        wanted = next(choosing)
        while True:
            for i, j in wanted:
                if (i, j) not in asked:
                    asked.append((i, j))
                seen[i, j], seen[j, i] = hidden[i, j], hidden[j, i]
            wanted = choosing.send(PreferenceMatrix(seen.copy(), "hidden"))
    except StopIteration as stop:
        return stop.value, asked, PreferenceMatrix(seen, "hidden")


def beats(size: int, *wins: tuple[int, int], chance: float = 0.9) -> np.ndarray:
    """All ties, but for ``chance`` where the first of a pair beats the second."""
    values = np.full((size, size), 0.5)
    for i, j in wins:
        values[i, j], values[j, i] = chance, 1 - chance
    return values


def in_order(*best_first: int) -> np.ndarray:
    """Each response beats all behind it."""
    size = len(best_first)
    return beats(size, *((best_first[a], best_first[b]) for a in range(size) for b in range(a + 1, size)))


def random_matrix(size: int, seed: int) -> np.ndarray:
    """Complete, with verdicts uniform in (0, 1): hardly ever transitive."""
    upper = np.triu(np.random.default_rng(seed).random((size, size)), 1)
    return upper + np.tril(1 - upper.T, -1) + np.eye(size) / 2
