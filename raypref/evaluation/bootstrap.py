"""Confidence intervals by resampling the prompts.

N prompts, R resamples, C figures of each prompt.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and standard deviation of a figure over resamples that are smaller than the set of prompts."""

    mean: float
    deviation: float
    """Divided by ``resamples`` - 1. With half of the prompts in each resample it is sqrt(2) times the standard error of the whole."""
    resamples: int
    size: int
    """Prompts in each resample."""


def bootstrap_interval(values: Array, *, resamples: int, confidence: float, seed: int) -> tuple[float, float]:
    """Percentile interval of the mean, with the prompts as what is resampled.

    Source: Efron's percentile bootstrap. Each of the resamples has as many prompts as there are, with replacement; ``half_samples`` is
    what the SRPO paper does.

    Args:
        values: (N,) one figure a prompt.
        resamples: how many times to draw.
        confidence: in (0, 1), such as 0.95.
        seed: the same values and seed give the same interval.

    Returns:
        lower and upper end.

    Raises:
        ValueError: there is no value.
    """
    low, high = percentiles(resampled_means(values[:, None], resamples=resamples, seed=seed), confidence)
    return float(low[0]), float(high[0])


def half_samples(values: Array, *, seed: int, resamples: int = 20) -> Spread:
    """Mean and standard deviation over resamples of half the prompts.

    Source: SRPO section 6, 20 times 512 of 1,024 prompts with replacement; the paper does not say what its deviation is divided by.

    Args:
        values: (N,) one figure a prompt; half of an odd N is rounded up.
        seed: of the draws.
        resamples: at least 2.

    Raises:
        ValueError: there is no value.
    """
    size = (len(values) + 1) // 2
    means = resampled_means(values[:, None], resamples=resamples, seed=seed, size=size)
    return Spread(float(means.mean()), float(means.std(ddof=1)), resamples, size)


def resampled_means(values: Array, *, resamples: int, seed: int, size: int | None = None) -> Array:
    """Means over resamples of the prompts; all figures are averaged over the same ones.

    Args:
        values: (N, C); NaN where a prompt does not have the figure, which is then averaged over the others.
        resamples: R.
        seed: of the draws.
        size: prompts in each resample; default: N.

    Returns:
        (R, C); NaN where no prompt of a resample has the figure.

    Raises:
        ValueError: there is no prompt.
    """
    if len(values) == 0:
        raise ValueError("no value to resample")
    rng = np.random.default_rng(seed)
    known = ~np.isnan(values)
    filled = np.where(known, values, 0.0)
    means = np.full((resamples, values.shape[1]), np.nan)
    for mean in means:
        counts = np.bincount(rng.integers(len(values), size=size or len(values)), minlength=len(values))
        answered = counts @ known
        np.divide(counts @ filled, answered, out=mean, where=answered > 0)
    return means


def percentiles(means: Array, confidence: float) -> tuple[Array, Array]:
    """Ends of the percentile intervals.

    Args:
        means: (R, C) from ``resampled_means``; NaN ones are left out.
        confidence: in (0, 1).

    Returns:
        (C,) lower and (C,) upper ends.
    """
    tail = (1.0 - confidence) / 2.0
    low, high = np.nanquantile(means, (tail, 1.0 - tail), axis=0)
    return low, high
