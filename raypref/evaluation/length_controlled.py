"""The win rate that a model would have if its responses were as long as the baseline's: AlpacaEval 2's length-controlled win rate.

    logit P(y > y_baseline | x) = theta + phi tanh(d / std(d)) + psi gamma_x,    d = len(y) - len(y_baseline)
    LC win rate = mean over x of logistic(theta + psi gamma_x)

The rate of a single set of responses without difficulties is NOT AlpacaEval 2's: there is no gamma_x. On the 55 sets of annotations that
AlpacaEval publishes it lies 6.1 points from the published rate on average, and up to 21. With gamma_x estimated from ten of these sets it
lies 0.8 points from it. Give the difficulties (``raypref.evaluation.difficulties``), or several sets.

theta, phi and psi belong to a pair of model and baseline; gamma_x is the prompt's difficulty, estimated once over several models. Swapping
model and baseline turns the rate x into 1 - x. A model that is compared with its own responses has a rate of exactly 1/2.

Source: Dubois et al. 2024, "Length-Controlled AlpacaEval", arXiv 2404.04475, (1) and (2), with theta for their theta_m - theta_b and psi
for psi_m - psi_b; the reference code is ``metrics/glm_winrate.py`` and ``notebooks/instruction_difficulty.ipynb`` of tatsu-lab/alpaca_eval.

As in the reference code: labels are the judge's probabilities; all coefficients are penalised, theta too; the penalty is the one of ten
from 1e4 to 1e-4 with the smallest log loss in 5-fold cross-validation, comparison i being in fold i mod 5; std is the sample's (N - 1) and
d is not centred; variants of the baseline, where they are given, keep phi and psi near theirs.

Departures from the reference code:
- The penalty is (lambda / 2) |beta|^2, as in the paper, and not lambda |beta|_1. On 30 simulated models of 805 prompts the win rates differ
  by 0.35 points on average and 1.6 at most, with variants by 0.17 and 0.84. With the squared penalty in both they are equal to within 1e-7.
- The losses of the held-out folds are summed, not averaged fold by fold. For folds of one size this is the same.
- Prompts on which the judge abstained are left out altogether. The reference fits without them but predicts for them.
- AlpacaEval's difficulties (instruction_difficulty.csv of its data set) and variants, made for its 805 prompts and GPT-4 Turbo as the
  baseline, are not part of this package.
- The reference knows from the names that both sides are the same model. Here the responses must be the same, or the rate is 1/2 only on
  average.
- Rates are in [0, 1], not per cent; phi is above 0 for a judge who likes length, where the reference's coefficient is below 0.
- The interval is a bootstrap of the fit, with the penalty chosen once, on all prompts. The reference's ``lc_standard_error`` is the
  standard error of the predictions over the prompts; it leaves out the errors of the coefficients.
- The joint fit for the difficulties has a column for every prompt. The reference leaves out the first prompt, whose difficulty is 0 then,
  and has a column for the variants.

Shapes: N prompts, M models, B resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from raypref.errors import DataError, OracleError
from raypref.evaluation.logistic import FOLDS, Array, Dense, Joint, cross_validate, fit
from raypref.evaluation.matching import Unit
from raypref.preferences import sigmoid

Difficulties = Literal["none", "estimated", "given"]
"""Where the prompts' gamma comes from: none: the fit has no psi; estimated: from these sets of responses; given: from a file."""
PENALTIES = tuple(float(penalty) for penalty in np.logspace(4, -4, 10))
"""lambda, the strongest first, which wins a tie; 1 / C of the reference."""
FITS_AT_A_TIME = 100
"""Resamples that are fitted together; bounds the memory to a few arrays of this many rows of N."""


@dataclass(frozen=True, slots=True)
class AgainstBaseline:
    """One model's comparisons with the baseline."""

    preferences: Array
    """(N,) P(the model's response > the baseline's) in [0, 1], 1/2 for a tie; NaN where the judge abstained."""
    lengths: Array
    """(N,) of the model's responses; characters in the reference, but any unit will do."""
    baseline_lengths: Array
    """(N,) of the baseline's responses, in the same unit."""
    difficulty: Array | None = None
    """(N,) gamma from ``instruction_difficulty``, or None for a fit without psi."""


@dataclass(frozen=True, slots=True)
class LengthControlled:
    """A length-controlled win rate with its bootstrap interval, and the fit that it comes from."""

    win_rate: float
    """In [0, 1]; one half for two equal policies."""
    low: float
    high: float
    confidence: float
    """Of the interval from ``low`` to ``high``."""
    raw: float
    """The mean of the judge's probabilities, without the correction for length."""
    theta: float
    """The model's strength at equal lengths, in nats."""
    phi: float
    """What the judge adds for length, in nats; above 0 if longer responses are preferred."""
    psi: float
    """How the model's strength changes with gamma; 0 without difficulties."""
    penalty: float
    """lambda, as chosen by cross-validation."""
    prompts: int
    """How many prompts the judge decided on."""
    unanswered: int
    """Prompts on which it abstained altogether; left out."""
    length: float
    """Mean length of the model's responses to the prompts that the judge decided on."""
    baseline_length: float
    unit: Unit | None = None
    """Of the lengths, where it is known."""
    oracle: Mapping[str, float] = field(default_factory=dict)
    """The judge's metrics: means, and the sum of each ``Total``."""
    difficulties: Difficulties = "none"
    sets: int = 1
    """How many sets of responses the difficulties were estimated from."""


def length_controlled_win_rate(
    given: AgainstBaseline,
    *,
    resamples: int,
    confidence: float,
    seed: int,
    variants: Sequence[AgainstBaseline] = (),
    variant_weight: float = 0.2,
    penalties: Sequence[float] = PENALTIES,
) -> LengthControlled:
    """Fit theta, phi and psi to a model's comparisons with the baseline, and predict its win rate at equal lengths.

    The bootstrap resamples the prompts. std(d), the penalty and the variants stay as they are.

    Args:
        given: the model's comparisons.
        resamples: of the bootstrap.
        confidence: of the interval, in (0, 1).
        seed: of the bootstrap.
        variants: the baseline, asked to be verbose or concise, compared with itself. These have phi and psi but no theta, and so show what
            length alone is worth: a defence against responses that are cut short to gain from the correction.
        variant_weight: of a prompt in all the variants together; the model's own comparison weighs 1.
        penalties: lambda to choose from; the first one wins a tie.

    Raises:
        OracleError: the judge decided on fewer prompts than there are folds.
        DataError: all responses differ from the baseline's by the same length, so that the effect of length cannot be separated from the
            model's.
        ValueError: shapes differ, a number is out of range, or difficulties are given for some comparisons only.
    """
    features, answers = _rows(given, theta=1.0)
    others = [_rows(variant, theta=0.0) for variant in variants]
    if any(rows.shape[1] != features.shape[1] for rows, _ in others):
        raise ValueError("length_controlled: difficulties are needed for the model and all variants, or for none of them")
    design = Dense(np.concatenate([features, *(rows for rows, _ in others)]))
    labels = np.concatenate([answers, *(verdicts for _, verdicts in others)])
    constant = np.full(len(labels) - len(answers), variant_weight / max(len(variants), 1))
    weights = np.concatenate([np.ones(len(answers)), constant])
    fits, best = cross_validate(design, labels, weights, np.arange(len(labels)) % FOLDS, penalties)
    beta = fits[best, FOLDS]
    rates = _resampled_rates(design, labels, constant, features, beta, penalties[best], resamples, seed)
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(rates, (tail, 1.0 - tail))
    win_rate = _rates(beta[None], features, np.ones((1, len(answers))))[0]
    return _result(given, float(win_rate), (float(low), float(high), confidence), beta, penalties[best])


def _resampled_rates(
    design: Dense, labels: Array, constant: Array, features: Array, beta: Array, penalty: float, resamples: int, seed: int
) -> Array:
    """(B,) win rates of fits to resampled prompts, each started from ``beta``, the fit to all of them."""
    rng, size = np.random.default_rng(seed), len(features)
    rates = []
    for first in range(0, resamples, FITS_AT_A_TIME):
        draws = [rng.integers(size, size=size) for _ in range(min(FITS_AT_A_TIME, resamples - first))]
        counts = np.stack([np.bincount(draw, minlength=size) for draw in draws]).astype(np.float64)
        weights = np.concatenate([counts, np.tile(constant, (len(counts), 1))], axis=1)
        fits = fit(design, labels, weights, np.full(len(counts), penalty), np.tile(beta, (len(counts), 1)))
        rates.append(_rates(fits, features, counts))
    return np.concatenate(rates)


def _rates(fits: Array, features: Array, counts: Array) -> Array:
    """(B,) weighted means of logistic(theta + psi gamma_x), from (B, 2 or 3) coefficients and (B, N) weights of the prompts."""
    predicted = sigmoid(fits[:, :1] + fits[:, 2:] @ features[:, 2:].T)
    return np.asarray((counts * predicted).sum(axis=1) / counts.sum(axis=1))


def _result(given: AgainstBaseline, win_rate: float, interval: tuple[float, float, float], beta: Array, penalty: float) -> LengthControlled:
    judged = ~np.isnan(given.preferences)
    theta, phi, psi = (float(value) for value in (*beta, 0.0)[:3])
    return LengthControlled(
        win_rate,
        *interval,
        raw=float(given.preferences[judged].mean()),
        theta=theta,
        phi=phi,
        psi=psi,
        penalty=penalty,
        prompts=int(judged.sum()),
        unanswered=int((~judged).sum()),
        length=float(given.lengths[judged].mean()),
        baseline_length=float(given.baseline_lengths[judged].mean()),
    )


def instruction_difficulty(preferences: Array, lengths: Array, baseline_lengths: Array, *, penalties: Sequence[float] = PENALTIES) -> Array:
    """gamma of each prompt: what it adds to every model's chance against the baseline, whatever the model and the lengths.

        logit P(y_m > y_baseline | x) = theta_m + phi_m tanh(d / std(d)) + gamma_x

    psi is 1 here, so that the fit stays convex; the models' psi are estimated later, one model at a time, with gamma held fixed.
    100 models on 805 prompts take about 10 s and 0.5 GiB.
    Despite its name gamma is highest for the prompts on which the baseline does worst.

    Source: section 3 of the paper; the authors' notebook and their answer in issue 346 of tatsu-lab/alpaca_eval.

    Args:
        preferences: (M, N) P(model m's response > the baseline's), NaN where the judge abstained.
        lengths: (M, N) of the models' responses.
        baseline_lengths: (N,)
        penalties: lambda to choose from, as above; comparison (m, n) is in fold (m + n) mod 5.

    Returns:
        (N,) in nats.

    Raises:
        OracleError: the judge decided on fewer prompts of a model than there are folds.
        ValueError: there is only one model, whose luck on a prompt cannot be separated from the prompt's difficulty; and as for
            ``length_controlled_win_rate``.
    """
    if np.ndim(preferences) != 2 or len(preferences) < 2:
        raise ValueError(f"instruction_difficulty: preferences of shape {np.shape(preferences)}; expected (M, N) with M of at least 2")
    models, prompts = preferences.shape
    terms, judged = np.zeros((models, prompts)), ~np.isnan(preferences)
    for model, (row, row_lengths) in enumerate(zip(preferences, lengths, strict=True)):
        rows, _ = _rows(AgainstBaseline(row, row_lengths, baseline_lengths), theta=1.0)
        terms[model, judged[model]] = rows[:, 1]
    labels, weights = np.where(judged, preferences, 0.5), judged.astype(np.float64)
    folds = np.add.outer(np.arange(models), np.arange(prompts)) % FOLDS
    fits, best = cross_validate(Joint(terms), labels.ravel(), weights.ravel(), folds.ravel(), penalties)
    return fits[best, FOLDS, 2 * models :]


def _rows(given: AgainstBaseline, theta: float) -> tuple[Array, Array]:
    """Features (answered, 2 or 3), of which the first is ``theta``, and labels (answered,) of the prompts that the judge decided on."""
    columns = [given.preferences, given.lengths, given.baseline_lengths]
    if given.difficulty is not None:
        columns.append(given.difficulty)
    shapes = [np.shape(column) for column in columns]
    if len(set(shapes)) > 1 or len(shapes[0]) != 1:
        raise ValueError(
            f"length_controlled: preferences, lengths and difficulty of shapes {shapes}; expected one number per prompt in each"
        )
    table = np.stack([np.asarray(column, dtype=np.float64) for column in columns])
    table = table[:, ~np.isnan(table[0])]
    labels, difference = table[0], table[1] - table[2]
    if len(labels) < FOLDS:
        raise OracleError(f"length_controlled: verdicts on {len(labels)} of {shapes[0][0]} prompts; {FOLDS} folds need one each")
    if not np.isfinite(table).all() or labels.min() < 0 or labels.max() > 1 or table[1:3].min() < 0:
        raise ValueError("length_controlled: preferences must be in [0, 1] (NaN: no verdict), lengths finite and not below 0, gamma finite")
    check_difference(difference)
    term = np.tanh(difference / difference.std(ddof=1)) if difference.any() else difference
    return np.stack([np.full(len(labels), theta), term, *table[3:]], axis=1), labels


def check_difference(difference: Array, whose: str = "") -> None:
    """That (N,) differences in length vary, or are all 0."""
    if np.ptp(difference) == 0 and difference[0] != 0:
        raise DataError(
            f"length_controlled: {whose}every response's length is the baseline's plus {difference[0]:g}; the effect of length "
            "cannot be separated from the model's unless the differences vary"
        )
