"""What the library's own judging makes of a game: all the training examples that could be drawn, each with its probability.

    groups of K arms, drawn from a behaviour policy -> verdicts on them -> Judge (selection, Loss.targets) -> examples

n arms, B different examples, S responses of an example, K responses of a group. An expectation over the data is then a weighted sum.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raypref.config import RolloutConfig
from raypref.games.known import plackett_luce
from raypref.games.policies import Policy
from raypref.judging import Judge, Judged
from raypref.losses.base import Loss
from raypref.oracles.base import Oracle, Question
from raypref.preferences import Matrix
from raypref.selection.base import Selection, all_pairs
from raypref.types import Prompt, Response, Rollout

Group = tuple[int, ...]
"""The arms of a group's K responses; an arm may be there more than once."""
Verdicts = Callable[[Group], Iterable[tuple[Matrix, float]]]
"""The (K, K) matrices that an annotator may give for a group, each with its probability."""


@dataclass(frozen=True, slots=True)
class Population:
    """Training examples with their weights."""

    arms: NDArray[np.intp]
    """(B, S)"""
    targets: NDArray[np.float64]
    """(B, S) what ``Loss.targets`` made of the verdicts."""
    weights: NDArray[np.float64]
    """(B,) expected number of such examples a group: dropped groups leave their sum below one."""

    def sampled(self, count: int, seed: int) -> Population:
        """A data set of ``count`` examples drawn from this population: weights are shares of it, those never drawn are left out."""
        drawn = np.random.default_rng(seed).multinomial(count, self.weights / self.weights.sum())
        there = drawn > 0
        return replace(self, arms=self.arms[there], targets=self.targets[there], weights=drawn[there] / count)


def soft(preference: Matrix) -> Verdicts:
    """An oracle that tells probabilities: P of the group's arms, and nothing to chance."""
    return lambda group: [(preference[np.ix_(group, group)], 1.0)]


def drawn(preference: Matrix) -> Verdicts:
    """An annotator: each comparison of the group comes out as 0 or 1, independently, with probability P.

    Source: INPO (1), SRPO section 3. An arm against itself is a fair coin.
    """

    def verdicts(group: Group) -> Iterable[tuple[Matrix, float]]:
        pairs = all_pairs(len(group))
        chances = np.array([preference[group[i], group[j]] for i, j in pairs])
        for wins in product((1.0, 0.0), repeat=len(pairs)):
            probability = float(np.prod(np.where(wins, chances, 1.0 - chances)))
            if probability > 0:
                yield _matrix(len(group), dict(zip(pairs, wins, strict=True))), probability

    return verdicts


def ranked(rewards: NDArray[np.float64]) -> Verdicts:
    """An annotator who ranks the whole group by Plackett-Luce: the higher one wins for certain.

    Source: SPO (3), section 5.

    Args:
        rewards: (n,) r of the arms, in nats.
    """

    def verdicts(group: Group) -> Iterable[tuple[Matrix, float]]:
        for ranking, probability in plackett_luce(rewards[list(group)]):
            place = np.argsort(ranking)
            yield _matrix(len(group), {(i, j): float(place[i] < place[j]) for i, j in all_pairs(len(group))}), probability

    return verdicts


def _matrix(size: int, wins: dict[tuple[int, int], float]) -> Matrix:
    values = np.full((size, size), 0.5)
    for (i, j), win in wins.items():
        values[i, j], values[j, i] = win, 1.0 - win
    return values


def population(loss: Loss, selection: Selection, behaviour: Policy, verdicts: Verdicts, responses: int = 2) -> Population:
    """Every example that the loss can be given of groups drawn independently from ``behaviour``.

    Args:
        loss: makes the targets.
        selection: picks the examples.
        behaviour: (n,) mu, or pi_t for self-generated data.
        verdicts: the annotator or oracle.
        responses: K; the n^K groups are enumerated, so n and K are small.

    Raises:
        ValueError: examples of different sizes, or none at all.
    """
    weights: dict[tuple[Group, tuple[float, ...]], float] = defaultdict(float)
    for group in product(range(len(behaviour)), repeat=responses):
        chance = float(np.prod(behaviour[list(group)]))
        for values, probability in verdicts(group) if chance > 0 else ():
            for arms, targets in _examples(loss, selection, group, values):
                weights[arms, targets] += chance * probability
    return _population(weights)


def whole_group(loss: Loss, selection: Selection, group: Sequence[int], preference: Matrix) -> Population:
    """The examples of one group under probabilities as verdicts: with every arm as often as pi_t has it, the group is pi_t itself."""
    arms = tuple(group)
    return _population(dict.fromkeys(_examples(loss, selection, arms, preference[np.ix_(arms, arms)]), 1.0))


def _population(weights: dict[tuple[Group, tuple[float, ...]], float]) -> Population:
    if len({len(arms) for arms, _ in weights}) != 1:
        raise ValueError(f"population: expected examples of one size, got {sorted({len(arms) for arms, _ in weights}) or 'no example'}")
    arms, targets = zip(*weights, strict=True)
    return Population(np.array(arms, dtype=np.intp), np.array(targets, dtype=np.float64), np.array(list(weights.values())))


def _examples(loss: Loss, selection: Selection, group: Group, values: Matrix) -> Iterable[tuple[Group, tuple[float, ...]]]:
    """The arms and the targets of a judged group's examples."""
    judged = judge_group(loss, selection, group, values)
    for picked, example in zip(judged.picked, judged.examples, strict=True):
        yield tuple(group[k] for k in picked), tuple(float(target) for target in example.targets[: len(picked)])


def judge_group(loss: Loss, selection: Selection, group: Group, values: Matrix) -> Judged:
    """The library's judging of one rollout, whose responses are single tokens: the arms' numbers."""
    prompt = Prompt(0, "game", "game", np.zeros(1, dtype=np.int32))
    replies = tuple(Response(np.array([arm], dtype=np.int32), np.zeros(1, dtype=np.float32), str(arm), "stop") for arm in group)
    judge = Judge(GivenVerdicts(values=values), selection, loss, RolloutConfig(responses=len(group)))
    return judge.judge(Rollout(prompt, replies, policy_version=0))


class GivenVerdicts(Oracle):
    """Answers with a matrix that is given."""

    type: str = "given"
    values: Any
    """(K, K) by the responses' places in the group."""

    def compare(self, questions: Sequence[Question]) -> list[NDArray[np.float64]]:
        return [self.values for _ in questions]
