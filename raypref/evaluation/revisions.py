"""Revision curves: the win rate of the policy's answers against fixed ones, as a function of how often it has revised them.

Source: SRPO Figure 3. There the opponents are human-written summaries, and the band is the standard deviation of 20 resamples. Here the
opponents are any rollouts, and each point has a bootstrap interval over the prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from raypref.evaluation.matching import Unit
from raypref.evaluation.outcomes import Compare, compare_all, summary
from raypref.evaluation.win_rate import WinRate, summarise
from raypref.types import Comparison, RolloutRef


@dataclass(frozen=True, slots=True)
class Revision(WinRate):
    """One point of the curve: the win rate after ``revisions`` revisions."""

    revisions: int
    """0 for the first answers."""
    length: float
    """Mean length of the answers, in ``unit``."""
    unit: Unit
    oracle: Mapping[str, float]
    """The oracle's metrics: means, and the sum of each ``Total``."""


async def compare_rounds(
    rounds: Sequence[Sequence[RolloutRef]], defenders: Sequence[RolloutRef], compare: Compare, *, in_flight: int
) -> list[list[Comparison]]:
    """Compare every revision with the same opponents.

    Args:
        rounds: (N + 1, prompts) references to the rollouts after 0, 1, ... N revisions.
        defenders: (prompts,) references to the opponents' rollouts, in the same order.
        compare: an oracle's verdict on two rollouts.
        in_flight: how many comparisons are asked for at once.

    Returns:
        (N + 1, prompts)
    """
    pairs = [pair for answers in rounds for pair in zip(answers, defenders, strict=True)]
    verdicts = await compare_all(pairs, compare, in_flight)
    return [verdicts[k * len(defenders) : (k + 1) * len(defenders)] for k in range(len(rounds))]


def revision_curve(
    matches: Sequence[Sequence[Comparison]], lengths: Sequence[float], unit: Unit, *, resamples: int, confidence: float, seed: int
) -> list[Revision]:
    """The win rates after 0, 1, ... N revisions.

    Args:
        matches: (N + 1, prompts) from ``compare_rounds``.
        lengths: (N + 1,) mean length of the answers.
        unit: of the lengths.
        resamples: of the bootstrap.
        confidence: of the intervals, in (0, 1).
        seed: of the bootstrap; the same for each point, so that all points use the same resampled prompts.

    Returns:
        (N + 1,)

    Raises:
        OracleError: the oracle abstained on every prompt.
    """
    curve = []
    for number, (row, length) in enumerate(zip(matches, lengths, strict=True)):
        rate = summarise([match.win_rate for match in row], resamples=resamples, confidence=confidence, seed=seed)
        curve.append(Revision(**asdict(rate), revisions=number, length=length, unit=unit, oracle=summary(match.metrics for match in row)))
    return curve
