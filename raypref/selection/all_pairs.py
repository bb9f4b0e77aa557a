"""Every pair of a group, K (K - 1) / 2 per prompt: the data set that the theory of INPO and SRPO assumes."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np

from raypref.selection.base import Pairs, Picks, RandomSelection, all_pairs, selections
from raypref.selection.rules.labels import Chosen, Ties, ordered
from raypref.types import PreferenceMatrix


@selections.register("all_pairs")
class AllPairs(RandomSelection):
    """One example (chosen, rejected) per comparison with an answer, in the order (0, 1), (0, 2), ..., (K - 2, K - 1).

    Pairs of a cycle are kept, since each is decided by its own comparison. With soft labels use ``ties: first``, so that a tie becomes an
    example with the label 1/2.
    """

    type: str = "all_pairs"
    chosen: Chosen = "likelier"
    """The chosen response. likelier: the one with P above 1/2; drawn: y with probability P(y > y'), as in INPO (1)."""
    ties: Ties = "drop"
    """A pair with P = 1/2, with ``chosen: likelier``: no example, or the first response is chosen."""

    def choose(self, size: int) -> Generator[Pairs, PreferenceMatrix, Picks]:
        pairs = all_pairs(size)
        matrix = yield pairs
        draw = np.random.default_rng(self.seed)
        labelled = (ordered(matrix.values, pair, self.chosen, self.ties, draw) for pair in pairs)
        return [pair for pair in labelled if pair is not None]

    def examples_at_most(self, size: int) -> int:
        return len(all_pairs(size))
