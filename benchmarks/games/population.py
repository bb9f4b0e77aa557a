"""All training examples that the library's judging can produce from a game, each with its probability.

    groups of K arms, drawn from a behaviour policy -> verdicts on them -> Judge (selection, Loss.targets) -> examples

n arms, B different examples, S sequences of an example, K responses of a group. An expectation over the data is then a weighted sum.
Every text is a single token: the number of its arm for a response, 0 for the prompt, and 1 + y for a prompt that holds an earlier answer y.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from benchmarks.games.known import plackett_luce
from benchmarks.games.policies import Policy
from raypref.data.examples import ExampleBuilder
from raypref.data.revision import Reviser
from raypref.judging.judge import Judge
from raypref.losses.base import Loss
from raypref.oracles.base import Question
from raypref.oracles.support.checked import Checked, check
from raypref.preferences import Matrix
from raypref.selection.base import Selection, all_pairs, run_now
from raypref.types import Prompt, Response, Rollout

Group = tuple[int, ...]
"""The arms of a group's K responses; an arm may occur more than once."""
Verdicts = Callable[[Group], Iterable[tuple[Matrix, float]]]
"""The (K, K) matrices that an annotator may give for a group, each with its probability."""


@dataclass(frozen=True, slots=True)
class Population:
    """Training examples with their weights."""

    contexts: NDArray[np.intp]
    """(B, S) the context of each sequence: 0 the prompt, 1 + y the prompt with the earlier answer y."""
    arms: NDArray[np.intp]
    """(B, S)"""
    targets: NDArray[np.float64]
    """(B, S) the result of ``Loss.targets``."""
    weights: NDArray[np.float64]
    """(B,) expected number of such examples per group; the sum is below 1 if groups are dropped."""

    def sampled(self, count: int, seed: int) -> Population:
        """A data set of ``count`` examples drawn from this population: weights are relative
        frequencies, and examples that were never drawn are left out."""
        drawn = np.random.default_rng(seed).multinomial(count, self.weights / self.weights.sum())
        occurs = drawn > 0
        kept = {name: getattr(self, name)[occurs] for name in ("contexts", "arms", "targets")}
        return replace(self, **kept, weights=drawn[occurs] / count)


def soft(preference: Matrix) -> Verdicts:
    """An oracle that returns probabilities: P of the group's arms, without randomness."""
    return lambda group: [(preference[np.ix_(group, group)], 1.0)]


def drawn(preference: Matrix) -> Verdicts:
    """An annotator: each comparison of the group is 0 or 1, independently, with probability P.

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
    """Every example that can result from groups drawn independently from ``behaviour``.

    Args:
        loss: makes the targets.
        selection: picks the examples.
        behaviour: (n,) mu, or pi_t for self-generated data.
        verdicts: the annotator or oracle.
        responses: K; the n^K groups are enumerated, so n and K are small.

    Raises:
        ValueError: examples of different sizes, or none at all.
        DataError: the loss needs responses to another prompt, which a game does not have.
    """
    weights: dict[_Example, float] = defaultdict(float)
    for group in product(range(len(behaviour)), repeat=responses):
        chance = float(np.prod(behaviour[list(group)]))
        for values, probability in verdicts(group) if chance > 0 else ():
            for example in _examples(loss, selection, group, values):
                weights[example] += chance * probability
    return _population(weights)


def whole_group(loss: Loss, selection: Selection, group: Sequence[int], preference: Matrix) -> Population:
    """The examples of one group with probabilities as verdicts. A group with arms in the proportions of pi_t represents pi_t exactly."""
    arms = tuple(group)
    return _population(dict.fromkeys(_examples(loss, selection, arms, preference[np.ix_(arms, arms)]), 1.0))


_Example = tuple[Group, Group, tuple[float, ...]]
"""Contexts, arms and targets of an example's sequences."""


def _population(weights: dict[_Example, float]) -> Population:
    sizes = sorted({len(arms) for _, arms, _ in weights})
    if len(sizes) != 1:
        raise ValueError(f"population: expected examples of one size, got {sizes or 'no example'}")
    contexts, arms, targets = (np.array(part) for part in zip(*weights, strict=True))
    return Population(contexts, arms, targets.astype(np.float64), np.array(list(weights.values())))


def _examples(loss: Loss, selection: Selection, group: Group, values: Matrix) -> Iterable[_Example]:
    """The examples of one rollout, made by the library's judge."""
    replies = tuple(Response(np.array([arm], dtype=np.int32), np.zeros(1, dtype=np.float32), str(arm), "stop") for arm in group)
    rollout = Rollout(Prompt(0, "game", "game", np.zeros(1, dtype=np.int32)), replies, policy_version=0)
    judge = Judge(GivenVerdicts(values), selection, loss, ExampleBuilder(loss, ArmReviser()))
    for example in run_now(judge.judge(rollout)).examples:
        contexts, arms = (tuple(int(tokens[0]) for tokens in part) for part in (example.prompt_ids, example.response_ids))
        yield contexts, arms, tuple(float(target) for target in example.targets)


class ArmReviser(Reviser):
    """Puts an earlier answer into a prompt without text: its token becomes 1 + y."""

    def __init__(self) -> None:
        """Needs neither template nor tokenizer."""

    def revise(self, prompt: Prompt, answer: str) -> Prompt:
        return replace(prompt, token_ids=np.array([1 + int(answer)], dtype=np.int32))


class GivenVerdicts:
    """Answers with a given matrix (``raypref.judging.comparisons.AsyncOracle``)."""

    name = "given"

    def __init__(self, values: Matrix) -> None:
        """
        Args:
            values: (K, K) by the responses' places in the group.
        """
        self._values = values

    async def ask(self, question: Question) -> Checked:
        return Checked(check(self._values, question, self.name))
