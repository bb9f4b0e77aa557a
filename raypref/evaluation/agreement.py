"""How far an oracle agrees with human labels.

    answers = ask(oracle, questions)                      # a question for each labelled comparison, with pairs ((0, 1),)
    found = agreement([answer.values[0, 1] for answer in answers], labels, [question.prompt_id for question in questions], ...)

A comparison of two responses is labelled ``first``, ``second`` (the better one) or ``tie``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from raypref.errors import DataError, OracleError
from raypref.evaluation.bootstrap import percentiles, resampled_means
from raypref.preferences import TIE

Label = Literal["first", "second", "tie"]
LABELS: tuple[Label, ...] = ("first", "second", "tie")
Array = NDArray[np.float64]
T = TypeVar("T", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Agreement:
    """An oracle's verdicts against labels. The intervals are over prompts."""

    agreement: float
    """Share of the comparisons on which verdict and label are the same."""
    low: float
    high: float
    kappa: float
    """Cohen's; NaN where it is not defined."""
    kappa_low: float
    kappa_high: float
    decided_agreement: float
    """The share among the comparisons that neither calls a tie (MT-bench's setup S2); NaN where there is none. An oracle without a tie
    margin hardly ever says tie, and is wrong on every tie of the labels in the other figures."""
    confidence: float
    """Of the intervals."""
    comparisons: int
    """How many the oracle decided on."""
    unanswered: int
    """On how many it abstained; they are in no other figure."""
    confusion: tuple[tuple[int, ...], ...]
    """Comparisons by label (row) and verdict (column), each first, second, tie."""


def agreement(
    chances: Sequence[float],
    labels: Sequence[Label],
    prompts: Sequence[str],
    *,
    tie_margin: float = 0.0,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Agreement:
    """Compare an oracle's verdicts with labels.

    Args:
        chances: (N,) P(first > second), NaN where the oracle abstained.
        labels: (N,) of the same comparisons.
        prompts: (N,) the prompt of each comparison; those of one prompt are resampled together, as they are not independent.
        tie_margin: verdicts within this distance of one half are ties.
        resamples: of the percentile bootstrap.
        confidence: of the intervals, in (0, 1).
        seed: of the bootstrap.

    Raises:
        DataError: a label is none of the three.
        OracleError: the oracle abstained on every comparison.
        ValueError: the lengths differ.
    """
    verdicts = [None if np.isnan(chance) else label_of(chance, tie_margin) for chance in chances]
    places = {prompt: place for place, prompt in enumerate(dict.fromkeys(prompts))}
    tables = np.zeros((len(places), len(LABELS), len(LABELS)))
    for number, (prompt, label, verdict) in enumerate(zip(prompts, labels, verdicts, strict=True)):
        if label not in LABELS:
            raise DataError(f"label {number}: expected one of {', '.join(LABELS)}, got {label!r}")
        if verdict is not None:
            tables[places[prompt], LABELS.index(label), LABELS.index(verdict)] += 1
    table = tables.sum(axis=0)
    if not table.any():
        raise OracleError(
            f"agreement: the oracle abstained on all {len(labels)} comparisons, so there is nothing to compare with the labels"
        )
    drawn = resampled_means(tables.reshape(len(tables), -1), resamples=resamples, seed=seed).reshape(-1, *table.shape)
    low, high = _interval(_share(drawn), confidence)
    kappa_low, kappa_high = _interval(_kappa(drawn), confidence)
    return Agreement(
        agreement=float(_share(table)),
        low=low,
        high=high,
        kappa=float(_kappa(table)),
        kappa_low=kappa_low,
        kappa_high=kappa_high,
        decided_agreement=float(_share(table[:2, :2])),
        confidence=confidence,
        comparisons=int(table.sum()),
        unanswered=len(labels) - int(table.sum()),
        confusion=tuple(tuple(int(count) for count in row) for row in table),
    )


def label_of(chance: float, tie_margin: float = 0.0) -> Label:
    """What P(first > second) says, in words."""
    if abs(chance - 0.5) <= max(tie_margin, TIE):
        return "tie"
    return "first" if chance > 0.5 else "second"


def majority(votes: Sequence[T]) -> T | None:
    """What more than half of the votes are for; None where there is no such thing."""
    if not votes:
        return None
    vote, count = Counter(votes).most_common(1)[0]
    return vote if 2 * count > len(votes) else None


def cohens_kappa(a: Sequence[Hashable], b: Sequence[Hashable]) -> float:
    """Agreement of two annotators beyond chance: (p_o - p_e) / (1 - p_e).

    p_o is the share of items on which they agree, p_e what it would be if each gave labels at random at the rates of their own.
    Source: Cohen, "A coefficient of agreement for nominal scales", 1960, equation 1.

    Args:
        a: (N,) labels.
        b: (N,) labels of the same items.

    Returns:
        1 for full agreement, 0 for that of chance, below 0 for less; NaN where both gave one and the same label throughout.

    Raises:
        ValueError: the lengths differ, or there is no item.
    """
    if not len(a):
        raise ValueError("cohens_kappa: no item")
    places = {label: place for place, label in enumerate(dict.fromkeys([*a, *b]))}
    table = np.zeros((len(places), len(places)))
    for left, right in zip(a, b, strict=True):
        table[places[left], places[right]] += 1
    return float(_kappa(table))


def _kappa(table: Array) -> Array:
    """(...) from (..., C, C) counts."""
    total, agreed = table.sum(axis=(-2, -1)), np.trace(table, axis1=-2, axis2=-1)
    by_chance = (table.sum(axis=-1) * table.sum(axis=-2)).sum(axis=-1)
    return _ratio(total * agreed - by_chance, total**2 - by_chance)


def _share(table: Array) -> Array:
    """(...) of the counts that are on the diagonal."""
    return _ratio(np.trace(table, axis1=-2, axis2=-1), table.sum(axis=(-2, -1)))


def _ratio(part: Array, whole: Array) -> Array:
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=np.asarray(whole > 0))


def _interval(figures: Array, confidence: float) -> tuple[float, float]:
    """Percentile interval over the resamples that have the figure."""
    if np.isnan(figures).all():
        return float("nan"), float("nan")
    low, high = percentiles(figures[:, None], confidence)
    return float(low[0]), float(high[0])
