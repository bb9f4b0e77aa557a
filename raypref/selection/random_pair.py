"""One pair of a group, drawn at random: one comparison per prompt."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np

from raypref.selection.base import Pairs, Picks, RandomSelection, all_pairs, selections
from raypref.selection.rules.labels import Chosen, Ties, ordered
from raypref.types import PreferenceMatrix


@selections.register("random_pair")
class RandomPair(RandomSelection):
    """One example (chosen, rejected) per group, each pair equally likely. Only its comparison is asked for.

    Source: the pairs of INPO's Algorithm 1 and of SRPO's data set, two independent responses per prompt; with ``chosen: drawn`` their
    labels too. The draw depends on ``seed`` and the prompt alone. A pair without an answer drops the group.
    """

    type: str = "random_pair"
    chosen: Chosen = "likelier"
    """The chosen response. likelier: the one with P above 1/2; drawn: y with probability P(y > y'), as in INPO (1)."""
    ties: Ties = "drop"
    """A pair with P = 1/2, with ``chosen: likelier``: the group is dropped, or the first response is chosen."""

    def choose(self, size: int) -> Generator[Pairs, PreferenceMatrix, Picks]:
        draw = np.random.default_rng(self.seed)
        pairs = all_pairs(size)
        pair = pairs[int(draw.integers(len(pairs)))]
        matrix = yield [pair]
        labelled = ordered(matrix.values, pair, self.chosen, self.ties, draw)
        return [] if labelled is None else [labelled]
