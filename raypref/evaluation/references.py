"""Win rates against given references, such as human-written summaries.

Source: SRPO section 6 and Appendix C.3: one point for a win against the reference of the prompt, one half for a draw, none for a loss;
mean and standard deviation over 20 resamples of half the prompts. N prompts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from raypref.evaluation.bootstrap import HalfSamples, half_samples
from raypref.evaluation.matching import Matched, Unit
from raypref.evaluation.outcomes import Compare, compare_all, counting, summary
from raypref.evaluation.win_rate import WinRate, summarise
from raypref.preferences import TIE


@dataclass(frozen=True, slots=True)
class ReferenceWinRate:
    """A policy's responses against the references of their prompts."""

    name: str
    reference: str
    score: WinRate
    """Mean of 1, 0.5 and 0, with the percentile interval."""
    score_half_samples: HalfSamples
    """The same as the paper reports it."""
    preference: WinRate
    """Mean of P(response > reference)."""
    preference_half_samples: HalfSamples
    wins: int
    """Comparisons of one response with one reference in which P > 1/2."""
    draws: int
    losses: int
    unanswered: int
    """Comparisons on which the oracle abstained."""
    length: float
    """Mean response length, in ``unit``."""
    reference_length: float
    unit: Unit
    unmatched: tuple[int, int]
    """Prompts of the policy, and of the references, that the other side does not have; they were left out."""
    oracle: Mapping[str, float]
    """The oracle's metrics: means, and the sum of each ``Total``."""


@dataclass(frozen=True, slots=True)
class RevisionScore(ReferenceWinRate):
    """One point of a method's curve: its answers after ``revisions`` revisions (SRPO Figures 3 to 5)."""

    revisions: int
    """0 for the first answers."""

    @classmethod
    def of(cls, rate: ReferenceWinRate, revisions: int) -> RevisionScore:
        """The win rate as a point of the curve."""
        return cls(**{field.name: getattr(rate, field.name) for field in fields(rate)}, revisions=revisions)


async def reference_win_rate(
    matched: Matched, name: str, reference: str, compare: Compare, *, in_flight: int, resamples: int, confidence: float, seed: int
) -> ReferenceWinRate:
    """Compare each response with each reference of its prompt, one by one, since the score of a mean is not the mean of the scores.

    Args:
        matched: the responses and the references; other sets in it are not used.
        name: the policy's set.
        reference: the references' set, usually with one for each prompt.
        compare: an oracle's verdict on two rollouts.
        in_flight: how many comparisons are asked for at once.
        resamples: of the percentile interval.
        confidence: of that interval, in (0, 1).
        seed: of both bootstraps.

    Raises:
        DataError: there is no set of that name.
        OracleError: the oracle abstained on every comparison.
    """
    first, second = matched.place(name), matched.place(reference)
    pairs, numbers = [], []
    for number in range(len(matched.prompts)):
        challenger, defender = matched.rollout(first, number), matched.rollout(second, number)
        for response in challenger.responses:
            for other in defender.responses:
                pairs.append((replace(challenger, responses=(response,)), replace(defender, responses=(other,))))
                numbers.append(number)
    verdicts = await compare_all(pairs, counting(compare), in_flight)
    chances = np.array([verdict.win_rate for verdict in verdicts])
    points = scores(chances)
    preferred, scored = (_by_prompt(values, np.array(numbers), len(matched.prompts)) for values in (chances, points))
    lengths = matched.lengths.mean(axis=1)
    return ReferenceWinRate(
        name=name,
        reference=reference,
        score=summarise(list(scored), resamples=resamples, confidence=confidence, seed=seed),
        score_half_samples=half_samples(scored[~np.isnan(scored)], seed=seed),
        preference=summarise(list(preferred), resamples=resamples, confidence=confidence, seed=seed),
        preference_half_samples=half_samples(preferred[~np.isnan(preferred)], seed=seed),
        wins=int((points == 1.0).sum()),
        draws=int((points == 0.5).sum()),
        losses=int((points == 0.0).sum()),
        unanswered=int(np.isnan(points).sum()),
        length=float(lengths[first]),
        reference_length=float(lengths[second]),
        unit=matched.unit,
        unmatched=(matched.unmatched[first], matched.unmatched[second]),
        oracle=summary(verdict.metrics for verdict in verdicts),
    )


def scores(chances: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 where P > 1/2, 0.5 where P = 1/2 (within ``preferences.TIE``), 0 where P < 1/2, NaN where the oracle abstained."""
    points = np.where(np.abs(chances - 0.5) <= TIE, 0.5, (chances > 0.5).astype(np.float64))
    return np.where(np.isnan(chances), np.nan, points)


def _by_prompt(values: NDArray[np.float64], numbers: NDArray[np.intp], count: int) -> NDArray[np.float64]:
    """(N,) mean over each prompt's comparisons on which the oracle decided; NaN where there are none."""
    known = ~np.isnan(values)
    answered = np.bincount(numbers[known], minlength=count)
    totals = np.bincount(numbers[known], values[known], minlength=count)
    means: NDArray[np.float64] = totals / np.where(answered, answered, np.nan)
    return means
