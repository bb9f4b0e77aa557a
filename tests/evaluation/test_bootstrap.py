"""Resampling."""

from __future__ import annotations

import numpy as np
import pytest

from raypref.evaluation.bootstrap import half_samples, percentiles, resampled_means


def test_figures_share_the_resamples() -> None:
    """The second figure is 1 minus the first on every prompt, so that the means add up to 1 in every resample."""
    values = np.random.default_rng(1).random(30)
    means = resampled_means(np.stack([values, 1 - values], axis=1), resamples=50, seed=3)
    assert means.shape == (50, 2)
    np.testing.assert_allclose(means.sum(axis=1), 1.0)
    assert np.ptp(means[:, 0]) > 0


def test_prompts_without_a_figure_are_left_out_of_its_mean() -> None:
    """Prompts 0.2 and one without: whatever is drawn, the mean is 0.2, or there is none where only the other one is drawn."""
    means = resampled_means(np.array([[0.2, 0.2], [np.nan, 0.2]]), resamples=100, seed=0)
    known = means[:, 0][~np.isnan(means[:, 0])]
    assert 50 < len(known) < 95  # all but a quarter
    np.testing.assert_allclose(known, 0.2)
    np.testing.assert_allclose(np.stack(percentiles(means, 0.9)), 0.2)


def test_half_samples_have_the_spread_of_half_the_prompts() -> None:
    """1,024 prompts, half won: a mean of 512 has the standard deviation 0.5 / sqrt(512) = 0.0221."""
    values = np.repeat([0.0, 1.0], 512)
    spread = half_samples(values, seed=0, resamples=4000)
    assert (spread.resamples, spread.size) == (4000, 512)
    assert spread.mean == pytest.approx(0.5, abs=0.002)
    assert spread.deviation == pytest.approx(0.0221, rel=0.05)


def test_half_samples_by_default_are_twenty() -> None:
    """Two of three prompts are drawn, all alike."""
    spread = half_samples(np.full(3, 0.7), seed=0)
    assert (spread.resamples, spread.size) == (20, 2)
    assert spread.mean == pytest.approx(0.7)
    assert spread.deviation == pytest.approx(0.0, abs=1e-12)
