"""Pairwise win rates among several policies, and whether their majority relation is a cycle.

Source: SPPO Figure 3, there among iterations and baselines with PairRM as the judge. M policies, N prompts, C = M(M-1)/2 pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raypref.errors import OracleError
from raypref.evaluation.bootstrap import percentiles, resampled_means
from raypref.evaluation.matching import Unit
from raypref.evaluation.outcomes import Outcomes
from raypref.preferences import has_cycle

Table = tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class WinRateMatrix:
    """W[i, j] = mean over prompts of P(i's response > j's), with W + W^T = 1."""

    names: tuple[str, ...]
    """(M,)"""
    win_rates: Table
    """(M, M) in [0, 1], one half on the diagonal."""
    low: Table
    """(M, M) ends of bootstrap intervals over the prompts; all pairs use the same resamples."""
    high: Table
    confidence: float
    prompts: int
    """N, the prompts that all policies answered."""
    unanswered: tuple[tuple[int, ...], ...]
    """(M, M) prompts on which the oracle abstained on the pair altogether. They are left out of the mean, not counted as one half."""
    abstained: tuple[tuple[int, ...], ...]
    """(M, M) comparisons of one response with another on which it abstained, on those prompts and on others."""
    unmatched: tuple[int, ...]
    """(M,) prompts of each policy that are not in all the other files; they were left out."""
    lengths: tuple[float, ...]
    """(M,) mean response length."""
    unit: Unit
    cyclic: bool
    """Whether the majority relation (i beats j when W[i, j] > 1/2) has a cycle, so that no order of the policies agrees with all pairs."""
    cyclic_beyond_chance: bool
    """The same for only those pairs whose interval does not contain one half."""
    oracle: Mapping[str, float]
    """The oracle's metrics over all pairs: means, and the sum of each ``Total``."""


def win_rate_matrix(outcomes: Outcomes, *, resamples: int, confidence: float, seed: int) -> WinRateMatrix:
    """Summary of outcomes in which every policy was compared with every other.

    Args:
        outcomes: from ``play`` without an opponent.
        resamples: of the bootstrap.
        confidence: of the intervals, in (0, 1).
        seed: of the bootstrap.

    Raises:
        OracleError: the oracle decided on no prompt for some pair.
    """
    size, count = len(outcomes.names), outcomes.values.shape[-1]
    upper = np.triu_indices(size, 1)
    values = outcomes.values[upper].T
    known = (~np.isnan(values)).sum(axis=0)
    for pair in np.flatnonzero(known == 0):
        i, j = (outcomes.names[places[pair]] for places in upper)
        raise OracleError(f"evaluation: no answer on any of the {count} prompts for {i!r} against {j!r}, so there is no win rate to report")
    low, high = percentiles(resampled_means(values, resamples=resamples, seed=seed), confidence)
    means = np.nansum(values, axis=0) / known
    rates = _square(size, means, 1.0 - means, 0.5)
    lows, highs = _square(size, low, 1.0 - high, 0.5), _square(size, high, 1.0 - low, 0.5)
    left_out = _square(size, count - known, count - known, 0.0)
    return WinRateMatrix(
        names=outcomes.names,
        win_rates=_table(rates),
        low=_table(lows),
        high=_table(highs),
        confidence=confidence,
        prompts=count,
        unanswered=tuple(tuple(int(entry) for entry in row) for row in left_out),
        abstained=tuple(tuple(0 if i == j else outcomes.abstained(i, j) for j in range(size)) for i in range(size)),
        unmatched=outcomes.unmatched,
        lengths=tuple(float(length) for length in outcomes.lengths.mean(axis=1)),
        unit=outcomes.unit,
        cyclic=has_cycle(rates),
        cyclic_beyond_chance=has_cycle(np.where((lows <= 0.5) & (highs >= 0.5), 0.5, rates)),
        oracle=outcomes.oracle(),
    )


def _square(size: int, above: NDArray[np.float64], below: NDArray[np.float64], diagonal: float) -> NDArray[np.float64]:
    """(M, M) from the (C,) entries above the diagonal and their mirror images below it."""
    square = np.full((size, size), diagonal)
    upper = np.triu_indices(size, 1)
    square[upper] = above
    square.T[upper] = below
    return square


def _table(values: NDArray[np.float64]) -> Table:
    return tuple(tuple(float(entry) for entry in row) for row in values)
