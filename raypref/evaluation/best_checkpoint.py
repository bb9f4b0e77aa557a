"""Which checkpoint to keep: the one with the highest win rate on held-out prompts.

Source: SPPO Appendix F, where hyper-parameters are chosen by the average PairRM win rate on held-out prompts. M checkpoints, N prompts.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raypref.errors import DataError, OracleError
from raypref.evaluation.bootstrap import percentiles, resampled_means
from raypref.evaluation.matching import Unit
from raypref.evaluation.outcomes import Outcomes
from raypref.evaluation.win_rate import WinRate, summarise
from raypref.preferences import TIE

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One checkpoint."""

    name: str
    win_rate: WinRate
    """Against the opponent, or mean over all the other checkpoints."""
    length: float
    """Mean response length."""
    abstained: int
    """Comparisons of one of its responses with a response of another set on which the oracle abstained."""
    behind: float
    """The best candidate's win rate minus this one's, over the prompts on which both have one."""
    behind_low: float
    """Ends of the bootstrap interval of ``behind``; both win rates are taken over the same resampled prompts."""
    behind_high: float


@dataclass(frozen=True, slots=True)
class BestCheckpoint:
    """The choice, and how certain it is."""

    best: str
    candidates: tuple[Candidate, ...]
    """From the best to the worst."""
    undecided: tuple[str, ...]
    """Candidates whose interval overlaps that of the best one."""
    unit: Unit
    oracle: Mapping[str, float]
    """The oracle's metrics over all pairs: means, and the sum of each ``Total``."""


def best_checkpoint(outcomes: Outcomes, *, resamples: int, confidence: float, seed: int, opponent: str | None = None) -> BestCheckpoint:
    """Rank checkpoints by win rate.

    Of equal ones (within ``preferences.TIE``) the one with the shorter responses comes first, since judges like length; of equally long
    ones the first.

    Logs a warning where the best one's interval overlaps another's. The difference may be beyond chance all the same, because the same
    prompts are hard for all candidates: in that case ``behind_low`` is above 0.

    Args:
        outcomes: every set against the opponent, or every set against every other.
        resamples: of the bootstrap.
        confidence: of the intervals, in (0, 1).
        seed: of the bootstrap.
        opponent: the set that all are compared with; it is not a candidate. Default: each set is compared with all the others, on the
            prompts on which the oracle decided on all of these comparisons.

    Raises:
        DataError: there is no set of the opponent's name.
        OracleError: the oracle decided on no prompt for a candidate, or on none that it decided on for the best one.
    """
    places = [place for place in range(len(outcomes.names)) if opponent != outcomes.names[place]]
    values = _values(outcomes, places, opponent)
    rates = [summarise(list(row), resamples=resamples, confidence=confidence, seed=seed) for row in values]
    lengths = outcomes.lengths[places].mean(axis=1)
    order = _order(np.array([rate.win_rate for rate in rates]), lengths)
    behind = values[order[0]] - values[order]
    for place, row in zip(order, behind, strict=True):
        if np.isnan(row).all():
            first, other = (outcomes.names[places[at]] for at in (order[0], place))
            raise OracleError(f"evaluation: no prompt on which the oracle decided on both {first!r} and {other!r}")
    lows, highs = percentiles(resampled_means(behind.T, resamples=resamples, seed=seed), confidence)
    candidates = tuple(
        Candidate(
            name=outcomes.names[places[place]],
            win_rate=rates[place],
            length=float(lengths[place]),
            abstained=outcomes.abstained(places[place]),
            behind=float(np.nanmean(row)),
            behind_low=float(low),
            behind_high=float(high),
        )
        for place, row, low, high in zip(order, behind, lows, highs, strict=True)
    )
    best, *others = candidates
    undecided = tuple(one.name for one in others if one.win_rate.high >= best.win_rate.low)
    if undecided:
        logger.warning("the interval of %s, the best checkpoint, overlaps that of %s", best.name, ", ".join(undecided))
    return BestCheckpoint(best.name, candidates, undecided, outcomes.unit, outcomes.oracle())


def _values(outcomes: Outcomes, places: list[int], opponent: str | None) -> NDArray[np.float64]:
    """(candidates, N) each one's P against the opponent, or its mean over the others; NaN where the oracle abstained on one of these."""
    if opponent is None:
        others = len(places) - 1
        return (outcomes.values.sum(axis=1) - 0.5) / others
    if opponent not in outcomes.names:
        raise DataError(f"no set of responses named {opponent!r}; there are {', '.join(outcomes.names)}")
    return outcomes.values[places, outcomes.names.index(opponent)]


def _order(rates: NDArray[np.float64], lengths: NDArray[np.float64]) -> NDArray[np.intp]:
    """Indices from the highest rate to the lowest, equal ones by length."""
    descending = np.argsort(-rates, kind="stable")
    level = np.concatenate([[0], np.cumsum(-np.diff(rates[descending]) > TIE)])
    return descending[np.lexsort((descending, lengths[descending], level))]
