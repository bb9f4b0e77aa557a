"""Length-controlled win rates. No published rate is reproduced here: AlpacaEval's verdicts and difficulties are not at hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from raypref.errors import DataError, OracleError
from raypref.evaluation.against_baseline import against_baseline
from raypref.evaluation.bootstrap import bootstrap_interval
from raypref.evaluation.length_controlled import (
    AgainstBaseline,
    LengthControlled,
    instruction_difficulty,
    length_controlled_win_rate,
)
from raypref.evaluation.logistic import Array
from raypref.evaluation.outcomes import Outcomes
from raypref.preferences import sigmoid

QUICK: dict[str, Any] = {"resamples": 2, "confidence": 0.9, "seed": 0}
NEARLY_FREE = (1e-9,)


def rate_of(*comparisons: Array, **how: Any) -> LengthControlled:
    """Of preferences, lengths, baseline_lengths and perhaps difficulty."""
    return length_controlled_win_rate(AgainstBaseline(*comparisons), **how)


def standardised(delta: Array) -> Array:
    return np.tanh(delta / delta.std(ddof=1))


def simulated(
    theta: float, phi: float, psi: float, prompts: int = 400, seed: int = 0, sampled: bool = True
) -> tuple[Array, Array, Array, Array]:
    """preferences, lengths, baseline_lengths, difficulty as the model has them; the chances themselves if not sampled."""
    rng = np.random.default_rng(seed)
    baseline = rng.integers(1000, 3000, prompts).astype(float)
    lengths = baseline + rng.integers(-600, 900, prompts)
    difficulty = rng.normal(size=prompts)
    chances = sigmoid(theta + phi * standardised(lengths - baseline) + psi * difficulty)
    return (rng.random(prompts) < chances).astype(float) if sampled else chances, lengths, baseline, difficulty


def two_groups(longer: float, shorter: float, share: float = 0.5, prompts: int = 40) -> tuple[Array, Array, Array]:
    """Responses 100 longer than the baseline's and 100 shorter, with one label for each group."""
    first = np.arange(prompts) < share * prompts
    return np.where(first, longer, shorter), np.where(first, 300.0, 100.0), np.full(prompts, 200.0)


def test_equal_lengths_by_hand() -> None:
    """Eight of ten won, no length and no difficulty: 10 logistic(theta) - 8 + lambda theta = 0. lambda = 0.5 / log 3 gives
    theta = log 3, a win rate of 3/4; without a penalty it is the raw 4/5."""
    won, lengths = np.array([1.0] * 8 + [0.0] * 2), np.full(10, 50.0)
    result = rate_of(won, lengths, lengths, penalties=[0.5 / np.log(3.0)], **QUICK)
    assert (result.win_rate, result.theta) == (pytest.approx(0.75, abs=1e-12), pytest.approx(np.log(3.0), abs=1e-12))
    assert (result.raw, result.phi, result.psi) == (0.8, 0.0, 0.0)
    assert rate_of(won, lengths, lengths, penalties=NEARLY_FREE, **QUICK).win_rate == pytest.approx(0.8, abs=1e-9)


def test_two_groups_by_hand() -> None:
    """0.8 for the longer half, 0.5 for the shorter: theta + phi t = log 4 and theta - phi t = 0, so theta = log 2, a win rate of 2/3 where
    the raw one is 0.65. 40 times 100^2 over 39 is std^2, so t = tanh(sqrt(39/40)) and phi = log 2 / t."""
    result = rate_of(*two_groups(0.8, 0.5), penalties=NEARLY_FREE, **QUICK)
    assert (result.win_rate, result.raw) == (pytest.approx(2 / 3, abs=1e-8), pytest.approx(0.65))
    assert result.phi == pytest.approx(np.log(2) / np.tanh(np.sqrt(39 / 40)), abs=1e-8)


def test_length_alone_wins_nothing() -> None:
    """0.8 for the longer three quarters, 0.2 for the shorter: theta + phi t = log 4 = -(theta - phi t), so theta = 0 and phi > 0."""
    result = rate_of(*two_groups(0.8, 0.2, share=0.75), penalties=NEARLY_FREE, **QUICK)
    assert (result.win_rate, result.raw) == (pytest.approx(0.5, abs=1e-8), pytest.approx(0.65))
    assert result.phi > 0


def test_difficulty_by_hand() -> None:
    """gamma = +-1 with 0.8 and 0.5, equal lengths: theta + psi = log 4, theta - psi = 0; the mean of the predictions is the raw 0.65."""
    preferences, lengths, _ = two_groups(0.8, 0.5)
    difficulty = np.where(lengths == 300, 1.0, -1.0)
    result = rate_of(preferences, lengths, lengths, difficulty, penalties=NEARLY_FREE, **QUICK)
    assert (result.theta, result.psi) == (pytest.approx(np.log(2), abs=1e-8), pytest.approx(np.log(2), abs=1e-8))
    assert result.win_rate == pytest.approx(0.65, abs=1e-8)


def test_the_same_responses_are_worth_one_half() -> None:
    lengths = np.arange(20.0)
    result = rate_of(np.full(20, 0.5), lengths, lengths, np.sin(lengths), **QUICK)
    assert (result.win_rate, result.low, result.high, result.theta, result.phi, result.psi) == (0.5, 0.5, 0.5, 0.0, 0.0, 0.0)


@pytest.mark.parametrize("seed", range(4))
def test_swapping_model_and_baseline(seed: int) -> None:
    """x becomes 1 - x and its interval is mirrored; what length is worth stays."""
    preferences, lengths, baseline, difficulty = simulated(-0.4, 0.9, 0.5, prompts=60, seed=seed)
    result = rate_of(preferences, lengths, baseline, difficulty, **QUICK)
    swapped = rate_of(1 - preferences, baseline, lengths, difficulty, **QUICK)
    np.testing.assert_allclose([swapped.win_rate, swapped.low, swapped.high], [1 - result.win_rate, 1 - result.high, 1 - result.low])
    np.testing.assert_allclose([swapped.theta, swapped.phi, swapped.psi], [-result.theta, result.phi, -result.psi])
    assert swapped.penalty == result.penalty


def test_the_unit_of_length_does_not_matter() -> None:
    preferences, lengths, baseline, difficulty = simulated(-0.4, 0.9, 0.5, prompts=60)
    characters = rate_of(preferences, lengths, baseline, difficulty, **QUICK)
    tokens = rate_of(preferences, lengths / 4, baseline / 4, difficulty, **QUICK)
    assert tokens.win_rate == pytest.approx(characters.win_rate, abs=1e-12)


def test_known_coefficients_are_found_from_probabilities() -> None:
    """The labels are the model's own chances, so that the likelihood is highest at its coefficients; 1e-4 is the weakest penalty."""
    preferences, lengths, baseline, difficulty = simulated(-0.5, 0.8, 0.6, sampled=False)
    result = rate_of(preferences, lengths, baseline, difficulty, **QUICK)
    np.testing.assert_allclose([result.theta, result.phi, result.psi], [-0.5, 0.8, 0.6], atol=1e-5)
    assert result.penalty == pytest.approx(1e-4)
    assert result.win_rate == pytest.approx(sigmoid(-0.5 + 0.6 * difficulty).mean(), abs=1e-6)


def test_known_coefficients_are_found_from_verdicts() -> None:
    """20,000 wins and losses: standard errors of about 0.02."""
    preferences, lengths, baseline, difficulty = simulated(-0.5, 0.8, 0.6, prompts=20_000)
    result = rate_of(preferences, lengths, baseline, difficulty, penalties=[1e-4], **QUICK)
    np.testing.assert_allclose([result.theta, result.phi, result.psi], [-0.5, 0.8, 0.6], atol=0.06)


def oscillating() -> tuple[tuple[Array, Array, Array, Array], AgainstBaseline]:
    index = np.arange(40.0)
    baseline, difficulty = 200 + 10 * index, np.cos(5 * index)
    lengths = baseline + 50 + 100 * np.sin(3 * index)
    chances = sigmoid(-0.6 + 1.2 * standardised(lengths - baseline) + 0.9 * difficulty + np.sin(7 * index))
    longer = baseline + 200 * np.sin(2 * index)
    variant = AgainstBaseline(np.round(sigmoid(1.5 * standardised(longer - baseline)), 1), longer, baseline, difficulty)
    return (np.round(chances, 1), lengths, baseline, difficulty), variant


def test_agreement_with_scikit_learn() -> None:
    """LogisticRegressionCV of scikit-learn 1.9.1 as the reference code calls it (liblinear, no intercept, rows doubled with the
    probabilities as weights, GroupKFold of 5, ten C), with penalty="l2" and a tolerance of 1e-8; the variant first, at a weight of 0.2."""
    comparisons, variant = oscillating()
    alone = rate_of(*comparisons, **QUICK)
    anchored = rate_of(*comparisons, variants=[variant], **QUICK)
    assert (alone.win_rate, anchored.win_rate) == (pytest.approx(0.39500099, abs=1e-7), pytest.approx(0.38753766, abs=1e-7))
    np.testing.assert_allclose([alone.theta, alone.phi, alone.psi], [-0.482724, 1.116186, 0.845199], atol=1e-6)
    np.testing.assert_allclose([anchored.theta, anchored.phi, anchored.psi], [-0.502381, 1.179376, 0.716182], atol=1e-6)
    assert 1 / alone.penalty == pytest.approx(21.5443469) == 1 / anchored.penalty


def test_variants_decide_what_length_is_worth() -> None:
    """Two variants whose length never mattered, and which outweigh the model's comparisons: phi = 0, and the rate is the raw 0.65. With no
    weight it is the 2/3 of the two groups alone. The weight is shared: 0.1 each of two variants is 0.2 of one."""
    comparisons = two_groups(0.8, 0.5)
    variant = AgainstBaseline(*two_groups(0.5, 0.5))

    def rate(variants: Sequence[AgainstBaseline], weight: float) -> LengthControlled:
        return rate_of(*comparisons, variants=variants, variant_weight=weight, penalties=NEARLY_FREE, **QUICK)

    assert rate([variant, variant], 1e7).phi == pytest.approx(0, abs=1e-5)
    assert rate([variant, variant], 1e7).win_rate == pytest.approx(0.65, abs=1e-5)
    assert rate([variant], 0.0).win_rate == pytest.approx(2 / 3, abs=1e-8)
    assert rate([variant, variant], 0.2).win_rate == pytest.approx(rate([variant], 0.2).win_rate, abs=1e-12)


def test_abstentions_are_left_out() -> None:
    (preferences, lengths, baseline, difficulty), _ = oscillating()
    holes = preferences.copy()
    holes[35:] = np.nan
    result = rate_of(holes, lengths, baseline, difficulty, **QUICK)
    kept = rate_of(preferences[:35], lengths[:35], baseline[:35], difficulty[:35], **QUICK)
    assert (result.win_rate, result.raw, result.low, result.high) == (kept.win_rate, kept.raw, kept.low, kept.high)
    assert (result.prompts, result.unanswered, kept.unanswered) == (35, 5, 0)


def test_interval_of_a_known_spread() -> None:
    """400 prompts of equal lengths, 240 won: the standard error is sqrt(0.6 * 0.4 / 400) = 0.0245, the interval 0.6 +- 1.96 * 0.0245."""
    won, lengths = np.repeat([1.0, 0.0], [240, 160]), np.full(400, 9.0)
    result = rate_of(won, lengths, lengths, penalties=[1e-4], resamples=2000, confidence=0.95, seed=0)
    assert (result.low, result.high) == (pytest.approx(0.552, abs=0.006), pytest.approx(0.648, abs=0.006))
    assert result.confidence == 0.95


def test_without_a_penalty_and_a_difference_in_length_it_is_the_raw_win_rate() -> None:
    """d/d theta = 0 says that the predictions' sum is the labels', in every resample: the interval is the raw win rate's as well."""
    preferences, lengths, _, difficulty = simulated(-0.5, 0.0, 1.5, prompts=60)
    result = rate_of(preferences, lengths, lengths, difficulty, penalties=NEARLY_FREE, resamples=50, confidence=0.9, seed=3)
    expected = bootstrap_interval(preferences, resamples=50, confidence=0.9, seed=3)
    np.testing.assert_allclose([result.win_rate, result.low, result.high], [preferences.mean(), *expected], atol=1e-8)


def test_the_interval_follows_from_the_seed() -> None:
    comparisons, _ = oscillating()
    results = [rate_of(*comparisons, resamples=20, confidence=0.9, seed=seed) for seed in (0, 0, 1)]
    assert results[0] == results[1]
    assert (results[0].low, results[0].high) != (results[2].low, results[2].high)
    assert results[0].low < results[0].win_rate < results[0].high


def test_difficulties_by_hand() -> None:
    """Two models, equal lengths, 0.8 on three prompts and 0.2 on three: theta = 0 by symmetry and gamma = +-g with
    2 (logistic(g) - 0.8) + lambda g = 0. lambda = 0.1 / log 3 gives g = log 3."""
    preferences = np.tile([0.8, 0.2], (2, 3))
    lengths = np.full(6, 70.0)
    gamma = instruction_difficulty(preferences, np.tile(lengths, (2, 1)), lengths, penalties=[0.1 / np.log(3.0)])
    np.testing.assert_allclose(gamma, np.tile([np.log(3.0), -np.log(3.0)], 3), atol=1e-12)


def test_known_difficulties_are_found() -> None:
    """Five models' own chances as labels, a tenth of them missing: gamma up to one constant, which theta takes up."""
    rng = np.random.default_rng(0)
    gamma, baseline = rng.normal(size=50), rng.integers(1000, 3000, 50).astype(float)
    lengths = baseline + rng.integers(-600, 900, (5, 50))
    terms = np.stack([standardised(row - baseline) for row in lengths])
    preferences = sigmoid(np.linspace(-2, 1, 5)[:, None] + np.linspace(0.2, 1.4, 5)[:, None] * terms + gamma)
    found = instruction_difficulty(preferences, lengths, baseline)
    np.testing.assert_allclose(found - found.mean(), gamma - gamma.mean(), atol=1e-2)


def test_difficulty_takes_what_is_known() -> None:
    """A prompt without a verdict has nothing but its penalty: gamma = 0. Of other prompts a missing verdict takes one model's word only."""
    rng = np.random.default_rng(1)
    preferences, lengths, baseline = rng.random((3, 12)), rng.integers(10, 90, (3, 12)).astype(float), np.full(12, 50.0)
    preferences[:, 4], preferences[1, 7] = np.nan, np.nan
    gamma = instruction_difficulty(preferences, lengths, baseline, penalties=[0.5])
    assert np.isfinite(gamma).all()
    assert gamma[4] == 0
    assert np.count_nonzero(gamma) == 11


def test_more_models_than_one_for_difficulties() -> None:
    with pytest.raises(ValueError, match=r"shape \(1, 9\); expected \(M, N\) with M of at least 2"):
        instruction_difficulty(np.full((1, 9), 0.5), np.ones((1, 9)), np.ones(9))


@pytest.mark.parametrize(
    ("change", "variants", "message"),
    [
        ({"preferences": np.full(9, 1.5)}, {}, r"must be in \[0, 1\]"),
        ({"lengths": np.full(9, np.inf)}, {}, "lengths finite"),
        ({"lengths": np.full(9, -1.0)}, {}, "not below 0"),
        ({"difficulty": np.full(9, np.nan)}, {}, "gamma finite"),
        ({"baseline_lengths": np.ones(8)}, {}, r"shapes \[\(9,\), \(9,\), \(8,\), \(9,\)\]"),
        ({"lengths": np.arange(9.0) + 3}, {}, r"length is the baseline's plus 3;"),
        (
            {},
            {"variants": [AgainstBaseline(np.full(9, 0.5), np.ones(9), np.ones(9))]},
            "difficulties are needed for the model and all",
        ),
    ],
)
def test_bad_figures_are_refused(change: dict[str, Array], variants: dict[str, Any], message: str) -> None:
    given = {"preferences": np.full(9, 0.5), "lengths": np.ones(9), "baseline_lengths": np.arange(9.0), "difficulty": np.ones(9)}
    with pytest.raises(ValueError, match=message):
        length_controlled_win_rate(AgainstBaseline(**(given | change)), **(QUICK | variants))


def test_too_few_verdicts() -> None:
    preferences = np.array([0.5] * 4 + [np.nan] * 5)
    with pytest.raises(OracleError, match="verdicts on 4 of 9 prompts"):
        rate_of(preferences, np.ones(9), np.ones(9), **QUICK)


def test_several_policies_against_one_baseline() -> None:
    """Two policies share the estimated difficulties; one alone is fitted without. Each is the fit of its own row."""
    won = np.array([simulated(theta, 0.5, 0.0, prompts=60, seed=seed)[0] for seed, theta in enumerate((0.5, -0.5))])
    lengths = np.random.default_rng(3).integers(50, 200, (3, 60)).astype(float)
    values = np.full((3, 3, 60), np.nan)
    values[:2, 2], values[2, :2] = won, 1 - won
    outcomes = Outcomes(("a", "b", "base"), values, lengths, "tokens", (0, 0, 0))
    found = against_baseline(outcomes, "base", **QUICK)
    difficulty = instruction_difficulty(won, lengths[:2], lengths[2])
    assert list(found) == ["a", "b"]
    assert found["b"] == replace(
        rate_of(won[1], lengths[1], lengths[2], difficulty, **QUICK), unit="tokens", difficulties="estimated", sets=2
    )
    pair = Outcomes(("a", "base"), values[np.ix_([0, 2], [0, 2])], lengths[[0, 2]], "tokens", (0, 0))
    alone = rate_of(won[0], lengths[0], lengths[2], **QUICK)
    assert against_baseline(pair, "base", **QUICK) == {"a": replace(alone, unit="tokens")}
    with pytest.raises(DataError, match="no set of responses named 'c'; there are a, b, base"):
        against_baseline(outcomes, "c", **QUICK)


def test_difficulties_from_a_file_are_those_of_the_fit() -> None:
    """A single set: with the difficulties that the verdicts were made with, the rate is that of the direct fit, and psi is found."""
    won, lengths, baseline, difficulty = simulated(0.3, 0.8, 1.2, sampled=False)
    values = np.full((2, 2, len(won)), 0.5)
    values[0, 1], values[1, 0] = won, 1.0 - won
    outcomes = Outcomes(("m", "b"), values, np.stack([lengths, baseline]), "tokens", (0, 0))
    given = against_baseline(outcomes, "b", difficulty=difficulty, **QUICK)["m"]
    direct = rate_of(won, lengths, baseline, difficulty, **QUICK)
    assert (given.win_rate, given.psi, given.difficulties) == (direct.win_rate, direct.psi, "given")
    assert given.psi == pytest.approx(1.2, abs=0.05)
    single = against_baseline(outcomes, "b", **QUICK)["m"]
    assert (single.psi, single.difficulties) == (0.0, "none")
