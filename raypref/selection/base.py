"""The contract between a preference matrix and training examples, and the one function that runs a rule.

K responses of a prompt.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, Self, TypeVar

from raypref.errors import ConfigError
from raypref.registry import Registry, TypedSection
from raypref.seeds import seed_for
from raypref.types import PreferenceMatrix

Pairs = list[tuple[int, int]]
"""Unordered comparisons that a rule asks for: (i, j) with i < j."""
Picks = list[tuple[int, ...]]
"""One tuple of response indices per training example; a pair is (chosen, rejected)."""

T = TypeVar("T")


def all_pairs(size: int) -> Pairs:
    """Every comparison among ``size`` responses: K (K - 1) / 2 of them."""
    return [(i, j) for i in range(size) for j in range(i + 1, size)]


class Selection(TypedSection):
    """Which comparisons the oracle is asked for, and which responses become training examples.

    ``choose`` is a generator: it yields the comparisons that it wants, receives the matrix with all that is known so far, may ask again,
    and returns its picks. A rule that needs the whole matrix asks once:

    >>> def choose(self, size):
    ...     matrix = yield all_pairs(size)
    ...     return [(0, 1)]

    A rule that draws random numbers derives from ``RandomSelection``.
    """

    def choose(self, size: int) -> Generator[Pairs, PreferenceMatrix, Picks]:
        """Pick from a group of ``size`` >= 2 responses; an empty list drops the group."""
        raise NotImplementedError

    def examples_at_most(self, size: int) -> int:
        """The largest number of examples from a group of ``size`` responses; the learning rate's horizon is computed from it."""
        return 1

    def seeded(self, prompt_seed: int) -> Self:
        """The rule for one prompt: itself, unless it draws random numbers."""
        return self

    def metrics(self, matrix: PreferenceMatrix) -> dict[str, float]:
        """What the rule measures on a group after ``choose``, averaged over groups: names under ``oracle/``, NaN where one does not apply.

        Metrics of the oracle itself do not depend on the rule (``raypref.judging.diagnostics``).
        """
        return {}


class RandomSelection(Selection):
    """A rule that draws random numbers, from ``numpy.random.default_rng(self.seed)`` in ``choose``."""

    seed: int = 0
    """Seed of the draws; the seed of each prompt is mixed in."""

    def seeded(self, prompt_seed: int) -> Self:
        """The rule for one prompt: its draws depend on the prompt, not on the order of prompts or on the replica that judges them."""
        return self.model_copy(update={"seed": seed_for(self.seed, "selection", 0, str(prompt_seed))})


selections: Registry[Selection] = Registry("selection", Selection, "raypref.selection")


async def play(rule: Selection, size: int, answers: Callable[[Pairs], Awaitable[PreferenceMatrix | None]]) -> Picks:
    """Run a rule to its end.

    Args:
        rule: as ``Selection.seeded`` returns it for the prompt.
        size: K, at least 2.
        answers: given the comparisons that the rule wants, returns the (K, K) matrix of all that is known so far; None drops the group.

    Raises:
        ConfigError: the rule wants a comparison, or picks a response, that does not exist.
    """
    choosing = rule.choose(size)
    try:
        wanted = next(choosing)
        while True:
            _check_pairs(wanted, size, rule)
            matrix = await answers(wanted)
            if matrix is None:
                return []
            wanted = choosing.send(matrix)
    except StopIteration as stop:
        picks: Picks = stop.value
        _check_picks(picks, size, rule)
        return picks


def play_known(rule: Selection, matrix: PreferenceMatrix) -> Picks:
    """``play`` on a matrix that is known beforehand. Comparisons without an answer in it stay without one."""

    async def answers(wanted: Pairs) -> PreferenceMatrix:
        return PreferenceMatrix(matrix.values.copy(), matrix.oracle)

    return run_now(play(rule, matrix.size, answers))


def run_now(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never has to wait, without an event loop.

    Raises:
        RuntimeError: it does wait.
    """
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    coroutine.close()
    raise RuntimeError(f"{coroutine!r} waits for something; run it in an event loop")


def _check_pairs(pairs: Pairs, size: int, rule: Selection) -> None:
    """Each comparison is (i, j) with 0 <= i < j < size."""
    for i, j in pairs:
        if not 0 <= i < j < size:
            raise ConfigError(
                f"selection.type: {rule.type!r} asks for ({i}, {j}) of {size} responses; pairs are (i, j) with i < j < {size}"
            )


def _check_picks(picks: Picks, size: int, rule: Selection) -> None:
    """Each pick names at least one response, and none twice."""
    for pick in picks:
        if not pick or len(set(pick)) < len(pick) or not all(0 <= k < size for k in pick):
            raise ConfigError(f"selection.type: {rule.type!r} picked {pick} of {size} responses; pick different ones, from 0 to {size - 1}")
