"""Every pair of a group: the data set of INPO and SRPO as their theory has it, K (K - 1) / 2 pairs a prompt."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np

from raypref.selection.base import Pairs, Picks, Selection, all_pairs, selections
from raypref.selection.rules.labels import Ties, Winner, ordered
from raypref.types import PreferenceMatrix


@selections.register("all_pairs")
class AllPairs(Selection):
    """One example for each comparison with an answer, (winner, loser), in the order (0, 1), (0, 2), ..., (K - 2, K - 1).

    Pairs of a cycle are kept: each is judged by its own comparison. With a loss of soft labels take ``ties: first``, so that a tie is an
    example too, with the label 1/2.
    """

    type: str = "all_pairs"
    winner: Winner = "likelier"
    """likelier: the response with P above 1/2; drawn: y wins with probability P(y > y'), as in INPO (1)."""
    ties: Ties = "drop"
    """A pair whose P is 1/2, with ``winner: likelier``: no example, or the first response counts as the winner."""
    seed: int = 0
    """Of the draws, mixed with the prompt's own; only with ``winner: drawn``."""

    def choose(self, size: int) -> Generator[Pairs, PreferenceMatrix, Picks]:
        pairs = all_pairs(size)
        matrix = yield pairs
        draw = np.random.default_rng(self.seed)
        labelled = (ordered(matrix.values, pair, self.winner, self.ties, draw) for pair in pairs)
        return [pair for pair in labelled if pair is not None]

    def examples_at_most(self, size: int) -> int:
        return len(all_pairs(size))
