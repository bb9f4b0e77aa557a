"""Several sets of responses against each other, prompt by prompt: what an oracle is asked once and several figures are made of."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from raypref.errors import DataError
from raypref.evaluation.matching import Matched, Unit
from raypref.output.metrics import Averages
from raypref.types import Comparison, Rollout, RolloutRef, Total

Compare = Callable[[RolloutRef, RolloutRef], Awaitable[Comparison]]
"""Challenger, defender -> an oracle's verdict (``OracleRole.compare``)."""


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Who was preferred on which prompt; M sets of responses, N prompts."""

    names: tuple[str, ...]
    """(M,)"""
    values: NDArray[np.float64]
    """(M, M, N) mean over both sides' responses of P(i's > j's), 1/2 on the diagonal; NaN where not asked, or the oracle abstained."""
    lengths: NDArray[np.float64]
    """(M, N) mean response length, in ``unit``."""
    unit: Unit
    unmatched: tuple[int, ...]
    """(M,) prompts of each set that are not in all the others; they were left out."""
    observed: Mapping[tuple[int, int], tuple[Mapping[str, float], ...]] = field(default_factory=dict)
    """Pair of sets that was asked about -> (N,) what the oracle observed (``Comparison.metrics``, and what ``counting`` adds)."""

    def oracle(self, *places: int) -> dict[str, float]:
        """What the oracle observed, summarised, on the pairs with all of these sets in them; default: on all pairs."""
        return summary(metrics for pair, own in self.observed.items() if set(places) <= set(pair) for metrics in own)

    def abstained(self, *places: int) -> int:
        """Comparisons of one response with one that the oracle left open, on the same pairs.

        Those of a prompt with others that it decided on are left out of the prompt's value, which does not show them.
        """
        return int(self.oracle(*places).get("oracle/abstained_total", 0.0))


async def play(matched: Matched, compare: Compare, *, in_flight: int, opponent: str | None = None) -> Outcomes:
    """Ask about all unordered pairs of sets, or about each set against one opponent; on every prompt.

    Args:
        matched: the responses.
        compare: an oracle's verdict on two rollouts.
        in_flight: how many comparisons are asked for at once, at least 1.
        opponent: one of the sets; default: everyone meets everyone.

    Raises:
        DataError: there are fewer than two sets, or none of that name.
        OracleError: from ``compare``; nothing further is asked for then.
    """
    size, count = len(matched.names), len(matched.prompts)
    if size < 2:
        raise DataError(f"at least two sets of responses are needed, got {', '.join(matched.names)} alone")
    pairs = [(i, j) for i in range(size) for j in range(i + 1, size)]
    if opponent is not None:
        other = matched.place(opponent)
        pairs = [(i, other) for i in range(size) if i != other]
    asked = ((matched.rollout(i, number), matched.rollout(j, number)) for i, j in pairs for number in range(count))
    verdicts = await compare_all(asked, counting(compare), in_flight)
    chances = np.array([verdict.win_rate for verdict in verdicts]).reshape(len(pairs), count)
    values = np.full((size, size, count), np.nan)
    values[np.arange(size), np.arange(size)] = 0.5
    for (i, j), row in zip(pairs, chances, strict=True):
        values[i, j], values[j, i] = row, 1.0 - row
    observed = {pair: tuple(own.metrics for own in verdicts[k * count : (k + 1) * count]) for k, pair in enumerate(pairs)}
    return Outcomes(matched.names, values, matched.lengths, matched.unit, matched.unmatched, observed)


def counting(compare: Compare) -> Compare:
    """The same, with how many comparisons of one response with one were asked for and left open among the metrics:
    ``oracle/comparisons_total`` and ``oracle/abstained_total``, of which ``oracle/abstained`` is the share."""

    async def counted(challenger: RolloutRef, defender: RolloutRef) -> Comparison:
        assert isinstance(challenger, Rollout)
        assert isinstance(defender, Rollout)
        verdict = await compare(challenger, defender)
        asked = len(challenger.responses) * len(defender.responses)
        open_ones = float(round(verdict.metrics["oracle/abstained"] * asked))
        counts = {"oracle/comparisons_total": Total(asked), "oracle/abstained_total": Total(open_ones)}
        return replace(verdict, metrics={**verdict.metrics, **counts})

    return counted


def summary(observed: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Means of what an oracle observed, and sums of each ``Total``."""
    averages = Averages()
    for metrics in observed:
        averages.add(metrics)
    return dict(averages.take())


async def compare_all(pairs: Iterable[tuple[RolloutRef, RolloutRef]], compare: Compare, in_flight: int) -> list[Comparison]:
    """The verdicts in the pairs' order, at most ``in_flight`` asked for at a time; the first failure ends the others."""
    assert in_flight >= 1, in_flight
    waiting = enumerate(pairs)
    verdicts: dict[int, Comparison] = {}

    async def work() -> None:
        for place, (challenger, defender) in waiting:
            verdicts[place] = await compare(challenger, defender)

    workers = [asyncio.ensure_future(work()) for _ in range(in_flight)]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
    return [verdicts[place] for place in range(len(verdicts))]
