"""An oracle's verdicts on several sets of responses, prompt by prompt. It is asked once; several results are computed from the verdicts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from raypref.errors import DataError
from raypref.evaluation.matching import Matched, Unit
from raypref.metrics.writer import Averages
from raypref.types import Comparison, Rollout, RolloutRef, Total

Compare = Callable[[RolloutRef, RolloutRef], Awaitable[Comparison]]
"""Challenger, defender -> an oracle's verdict (``OracleRole.compare``)."""


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Which set was preferred on which prompt; M sets of responses, N prompts."""

    names: tuple[str, ...]
    """(M,)"""
    values: NDArray[np.float64]
    """(M, M, N) mean over both sides' responses of P(i's > j's), 1/2 on the diagonal; NaN where the oracle was not asked or abstained."""
    lengths: NDArray[np.float64]
    """(M, N) mean response length, in ``unit``."""
    unit: Unit
    unmatched: tuple[int, ...]
    """(M,) prompts of each set that are not in all the others; they were left out."""
    observed: Mapping[tuple[int, int], tuple[Mapping[str, float], ...]] = field(default_factory=dict)
    """Pair of sets that the oracle was asked about -> (N,) its metrics (``Comparison.metrics``, and what ``counting`` adds)."""

    def oracle(self, *places: int) -> dict[str, float]:
        """The oracle's metrics, summarised over the pairs that contain all of these sets; default: over all pairs."""
        return summary(metrics for pair, rows in self.observed.items() if set(places) <= set(pair) for metrics in rows)

    def abstained(self, *places: int) -> int:
        """Comparisons of one response with another on which the oracle abstained, over the same pairs.

        A prompt's value is the mean over the comparisons that the oracle decided on, and does not show how many it left out.
        """
        return int(self.oracle(*places).get("oracle/abstained_total", 0.0))


async def play(matched: Matched, compare: Compare, *, in_flight: int, opponent: str | None = None) -> Outcomes:
    """Ask an oracle about all unordered pairs of sets, or about each set against one opponent, on every prompt.

    Args:
        matched: the responses.
        compare: an oracle's verdict on two rollouts.
        in_flight: how many comparisons are asked for at once, at least 1.
        opponent: one of the sets; default: every set is compared with every other.

    Raises:
        DataError: there are fewer than two sets, or none of that name.
        OracleError: from ``compare``; no further comparison is asked for then.
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
    observed = {pair: tuple(verdict.metrics for verdict in verdicts[k * count : (k + 1) * count]) for k, pair in enumerate(pairs)}
    return Outcomes(matched.names, values, matched.lengths, matched.unit, matched.unmatched, observed)


def counting(compare: Compare) -> Compare:
    """``compare``, with two more metrics: how many comparisons of one response with another were asked for
    (``oracle/comparisons_total``) and on how many the oracle abstained (``oracle/abstained_total``)."""

    async def counted(challenger: RolloutRef, defender: RolloutRef) -> Comparison:
        assert isinstance(challenger, Rollout)
        assert isinstance(defender, Rollout)
        verdict = await compare(challenger, defender)
        asked = len(challenger.responses) * len(defender.responses)
        abstained = float(round(verdict.metrics["oracle/abstained"] * asked))
        counts = {"oracle/comparisons_total": Total(asked), "oracle/abstained_total": Total(abstained)}
        return replace(verdict, metrics={**verdict.metrics, **counts})

    return counted


def summary(observed: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Means of an oracle's metrics, and the sum of each ``Total``."""
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
