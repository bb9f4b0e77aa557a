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
    """How many prompts the oracle decided on."""
    unanswered: int
    """Prompts on which it abstained altogether; they are left out, not counted as one half."""


def summarise(values: Sequence[float], *, resamples: int, confidence: float, seed: int) -> WinRate:
    """Summary of per-prompt win rates.

    Args:
        values: one win rate a prompt, NaN where the oracle abstained.
        resamples: of the bootstrap.
        confidence: of the interval, in (0, 1).
        seed: of the bootstrap.

    Raises:
        OracleError: the oracle abstained on every prompt.
    """
    given = np.asarray(values, dtype=np.float64)
    answered = given[~np.isnan(given)]
    if len(answered) == 0:
        raise OracleError(f"evaluation: the oracle abstained on all {len(given)} held-out prompts, so there is no win rate to report")
    low, high = bootstrap_interval(answered, resamples=resamples, confidence=confidence, seed=seed)
    return WinRate(float(answered.mean()), low, high, confidence, len(answered), len(given) - len(answered))
