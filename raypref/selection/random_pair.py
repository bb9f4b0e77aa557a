"""One pair of a group, drawn at random: one comparison a prompt."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np

from raypref.selection.base import Pairs, Picks, Selection, all_pairs, selections
from raypref.selection.rules.labels import Ties, Winner, ordered
from raypref.types import PreferenceMatrix


@selections.register("random_pair")
class RandomPair(Selection):
    """One example a group: two responses, each pair equally likely, as (winner, loser). Only their comparison is asked for.

    Source: the pairs of INPO's Algorithm 1 and of SRPO's data set, two independent responses a prompt; with ``winner: drawn`` their
    labels too. The draw depends on ``seed`` and on the prompt alone. A pair without an answer drops the group.
    """

    type: str = "random_pair"
    winner: Winner = "likelier"
    """likelier: the response with P above 1/2; drawn: y wins with probability P(y > y'), as in INPO (1)."""
    ties: Ties = "drop"
    """A pair whose P is 1/2, with ``winner: likelier``: drops the group, or the first response counts as the winner."""
    seed: int = 0
    """Of the draws, mixed with the prompt's own."""

    def choose(self, size: int) -> Generator[Pairs, PreferenceMatrix, Picks]:
        draw = np.random.default_rng(self.seed)
        pairs = all_pairs(size)
        pair = pairs[int(draw.integers(len(pairs)))]
        matrix = yield [pair]
        labelled = ordered(matrix.values, pair, self.winner, self.ties, draw)
        return [] if labelled is None else [labelled]
