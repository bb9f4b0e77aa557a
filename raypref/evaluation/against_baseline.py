"""Length-controlled win rates of sets of responses against one of them; the fit is in ``length_controlled``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from raypref.errors import DataError
from raypref.evaluation.length_controlled import (
    AgainstBaseline,
    Difficulties,
    LengthControlled,
    check_difference,
    instruction_difficulty,
    length_controlled_win_rate,
)
from raypref.evaluation.logistic import FOLDS, Array
from raypref.evaluation.matching import Matched
from raypref.evaluation.outcomes import Outcomes


def check_lengths(matched: Matched, baseline: str) -> None:
    """Whether these responses allow a fit, before anything is asked.

    Args:
        matched: the responses of the models and of the baseline.
        baseline: its name.

    Raises:
        DataError: there are fewer prompts than folds, or all responses of a set differ from the baseline's by the same length.
    """
    if len(matched.prompts) < FOLDS:
        raise DataError(f"length_controlled: {len(matched.prompts)} prompts; {FOLDS} folds need one each")
    lengths = matched.lengths
    for place, name in enumerate(matched.names):
        check_difference(lengths[place] - lengths[matched.place(baseline)], f"{name!r}: ")


def against_baseline(
    outcomes: Outcomes, baseline: str, *, difficulty: Array | None = None, resamples: int, confidence: float, seed: int
) -> dict[str, LengthControlled]:
    """Length-controlled win rates of all other sets of responses against one of them, by name.

    Without a ``difficulty``, that of the prompts is estimated from all sets where there are two or more. It is left out for a single set,
    whose rate is then not comparable with AlpacaEval 2's.

    Args:
        outcomes: every set against the baseline.
        baseline: its name.
        difficulty: (N,) gamma of the prompts, in their order.
        resamples: of the bootstrap.
        confidence: of the intervals, in (0, 1).
        seed: of the bootstrap.

    Raises:
        DataError: there is no set of that name, or the effect of length cannot be separated from a model's (``check_lengths``).
        OracleError: the judge decided on fewer prompts of a model than there are folds.
    """
    if baseline not in outcomes.names:
        raise DataError(f"no set of responses named {baseline!r}; there are {', '.join(outcomes.names)}")
    other = outcomes.names.index(baseline)
    places = [place for place in range(len(outcomes.names)) if place != other]
    preferences, lengths, baseline_lengths = outcomes.values[places, other], outcomes.lengths[places], outcomes.lengths[other]
    origin: Difficulties = "none" if difficulty is None else "given"
    if difficulty is None and len(places) > 1:
        difficulty, origin = instruction_difficulty(preferences, lengths, baseline_lengths), "estimated"
    how: dict[str, Any] = {"resamples": resamples, "confidence": confidence, "seed": seed}
    results = {}
    for place, row, row_lengths in zip(places, preferences, lengths, strict=True):
        fitted = length_controlled_win_rate(AgainstBaseline(row, row_lengths, baseline_lengths, difficulty), **how)
        results[outcomes.names[place]] = replace(
            fitted, unit=outcomes.unit, oracle=outcomes.oracle(place, other), difficulties=origin, sets=len(places)
        )
    return results
