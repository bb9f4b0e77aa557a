"""A selection and a loss, tried together on made-up groups before a run starts.

A group is K responses of different strengths in a random order. The oracle answers every comparison that is asked. What the loss refuses
here, it would refuse in the run, after the first group was sampled and judged.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from raypref import preferences
from raypref.errors import ConfigError, Problem
from raypref.judging.config import JudgingConfig
from raypref.losses.base import Loss
from raypref.preferences import Unanswered
from raypref.selection.base import Pairs, Selection, all_pairs, play, run_now
from raypref.types import PreferenceMatrix

_GROUPS = 16
"""A selection may draw, and random opponents are drawn: one group does not show everything."""


def misfit(selection: Selection, loss: Loss, judging: JudgingConfig, size: int) -> Problem | None:
    """Why the loss cannot use what the selection makes of groups of ``size`` responses; None if it can.

    Args:
        judging: which comparisons are asked.
        size: K, at least 2.
    """
    problems = (_misfit(selection.seeded(seed), loss, _Group(judging, size, seed)) for seed in range(_GROUPS))
    return next((problem for problem in problems if problem is not None), None)


@dataclass(frozen=True, slots=True)
class GroupCost:
    """What a selection makes of a group."""

    comparisons: float
    """That the oracle is asked, as a mean."""
    responses: int
    """Of the largest example."""


def group_cost(selection: Selection, judging: JudgingConfig, size: int) -> GroupCost:
    """What groups of ``size`` responses cost, tried on made-up ones."""
    groups = [_Group(judging, size, seed) for seed in range(_GROUPS)]
    picks = [run_now(play(selection.seeded(seed), size, group.ask)) for seed, group in enumerate(groups)]
    largest = max((len(picked) for picked_by_group in picks for picked in picked_by_group), default=0)
    return GroupCost(sum(group.comparisons for group in groups) / len(groups), largest)


def _misfit(selection: Selection, loss: Loss, group: _Group) -> Problem | None:
    pairs = group.judging.pairs
    try:
        for picked in run_now(play(selection, group.size, group.ask)):
            loss.targets(group.matrix, picked)
            fewest, most = loss.responses
            if len(picked) < fewest or (most is not None and len(picked) > most):
                wanted = f"{fewest}" if fewest == most else f"at least {fewest}" if most is None else f"{fewest} to {most}"
                reason = f"which needs {wanted} responses per example, but selection.type={selection.type} gives {len(picked)}"
                return Problem("loss.type", loss.type, reason, f"set selection.type={'best_worst' if most == 2 else 'ranking'}")
    except _NotTheWholeMatrix:
        reason = f"where random opponents stand for the whole matrix, but selection.type={selection.type} asks for certain pairs of it"
        remedy = "set judging.pairs=selection, or selection.type=best_worst, all_responses, ranking or best_of_n"
        return Problem("judging.pairs", pairs, reason, remedy)
    except Unanswered as error:
        reason = f"which with judging.pairs={pairs} does not ask for all the comparisons that loss {loss.type!r} needs ({error})"
        return Problem("selection.type", selection.type, reason, "set judging.pairs=all, or another selection")
    except ConfigError as error:
        return Problem.of(error)
    return None


class _NotTheWholeMatrix(Exception):
    """The selection asks for certain pairs, but random ones are asked instead."""


class _Group:
    """One made-up group, asked as the ``judging`` section says."""

    def __init__(self, judging: JudgingConfig, size: int, seed: int) -> None:
        self.judging = judging
        self.size = size
        self._seed = seed
        strengths = np.random.default_rng(seed).permutation(size).astype(np.float64)
        self._answers = 1 / (1 + np.exp(strengths[None, :] - strengths[:, None]))
        self._asked = np.zeros((size, size), dtype=bool)

    async def ask(self, wanted: Pairs) -> PreferenceMatrix:
        """All that is known once ``wanted`` was asked, or the pairs that are asked in its place.

        Raises:
            _NotTheWholeMatrix: random opponents cannot replace these pairs.
        """
        whole = all_pairs(self.size)
        asked: Iterable[tuple[int, int]] = wanted
        if self.judging.pairs == "all" or self.judging.preference == "sppo":
            asked = whole
        elif self.judging.pairs == "random":
            if set(wanted) != set(whole):
                raise _NotTheWholeMatrix
            opponents = preferences.random_opponents(self.size, self.judging.opponents, self._seed)
            asked = [(i, j) for i, j in whole if opponents[i, j]]
        for i, j in asked:
            self._asked[i, j] = self._asked[j, i] = True
        return self.matrix

    @property
    def comparisons(self) -> int:
        """How many pairs were asked so far."""
        return int(np.count_nonzero(np.triu(self._asked)))

    @property
    def matrix(self) -> PreferenceMatrix:
        """All that is known so far."""
        values = np.where(self._asked | np.eye(self.size, dtype=bool), self._answers, np.nan)
        return PreferenceMatrix(values, "made up", self._asked.copy(), self.judging.pairs == "random")
