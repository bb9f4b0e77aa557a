"""Win rate of one policy against another over held-out prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raypref.errors import OracleError
from raypref.evaluation.bootstrap import bootstrap_interval


@dataclass(frozen=True, slots=True)
class WinRate:
    """Mean over prompts of P(challenger's response > defender's), with a bootstrap interval."""

    win_rate: float
    """In [0, 1]; one half for two equal policies."""
    low: float
    high: float
    confidence: float
    """Of the interval from ``low`` to ``high``."""
    prompts: int
    """Number of prompts on which the oracle decided."""
    unanswered: int
    """Prompts on which it abstained altogether. They are left out of the mean, not counted as one half."""


def summarise(values: Sequence[float], *, resamples: int, confidence: float, seed: int) -> WinRate:
    """Summary of per-prompt win rates.

    Args:
        values: one win rate per prompt, NaN where the oracle abstained.
        resamples: of the bootstrap.
        confidence: of the interval, in (0, 1).
        seed: of the bootstrap.

    Raises:
        OracleError: the oracle abstained on every prompt.
    """
    rates = np.asarray(values, dtype=np.float64)
    answered = rates[~np.isnan(rates)]
    if len(answered) == 0:
        raise OracleError(f"evaluation: the oracle abstained on all {len(rates)} held-out prompts, so there is no win rate to report")
    low, high = bootstrap_interval(answered, resamples=resamples, confidence=confidence, seed=seed)
    return WinRate(float(answered.mean()), low, high, confidence, len(answered), len(rates) - len(answered))
