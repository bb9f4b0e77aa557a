"""Confidence intervals by resampling the prompts.

Shapes: N prompts, R resamples, C columns (numbers of each prompt).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class HalfSamples:
    """Mean and standard deviation of a number over resamples of half the prompts."""

    mean: float
    deviation: float
    """With ``resamples`` - 1 in the denominator. Since each resample has half of the prompts, it is sqrt(2) times the standard error of the
    mean over all of them."""
    resamples: int
    size: int
    """Prompts in each resample."""


def bootstrap_interval(values: Array, *, resamples: int, confidence: float, seed: int) -> tuple[float, float]:
    """Percentile interval of the mean over the prompts.

    Source: Efron's percentile bootstrap. Each resample draws N prompts with replacement. (The SRPO paper draws half as many:
    ``half_samples``.)

    Args:
        values: (N,) one number per prompt.
        resamples: how many times to draw.
        confidence: in (0, 1), such as 0.95.
        seed: the same values and seed give the same interval.

    Returns:
        lower and upper end.

    Raises:
        ValueError: N is 0.
    """
    low, high = percentiles(resampled_means(values[:, None], resamples=resamples, seed=seed), confidence)
    return float(low[0]), float(high[0])


def half_samples(values: Array, *, seed: int, resamples: int = 20) -> HalfSamples:
    """Mean and standard deviation over resamples of half the prompts.

    Source: SRPO section 6, 20 times 512 of 1,024 prompts with replacement. The paper does not give the denominator of its deviation.

    Args:
        values: (N,) one number per prompt; half of an odd N is rounded up.
        seed: of the draws.
        resamples: at least 2.

    Raises:
        ValueError: N is 0.
    """
    size = (len(values) + 1) // 2
    means = resampled_means(values[:, None], resamples=resamples, seed=seed, size=size)
    return HalfSamples(float(means.mean()), float(means.std(ddof=1)), resamples, size)


def resampled_means(values: Array, *, resamples: int, seed: int, size: int | None = None) -> Array:
    """Means over resamples of the prompts; all columns are averaged over the same resamples.

    Args:
        values: (N, C); NaN where a prompt has no number. The mean is over the other prompts of the resample.
        resamples: R.
        seed: of the draws.
        size: prompts in each resample; default: N.

    Returns:
        (R, C); NaN where no prompt of a resample has a number.

    Raises:
        ValueError: N is 0.
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
        means: (R, C) from ``resampled_means``; NaN is left out.
        confidence: in (0, 1).

    Returns:
        (C,) lower and (C,) upper ends.
    """
    tail = (1.0 - confidence) / 2.0
    low, high = np.nanquantile(means, (tail, 1.0 - tail), axis=0)
    return low, high
