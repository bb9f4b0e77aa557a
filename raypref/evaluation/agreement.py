"""How far an oracle agrees with people who judged the same comparisons: shares, Cohen's kappa, and their intervals.

A comparison is of two responses to a prompt; its label says which one is better: ``first``, ``second`` or ``tie``.
``raypref.evaluation.labelled_comparisons`` reads labelled comparisons and asks an oracle about them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
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
    """Cohen's kappa; NaN where it is not defined."""
    kappa_low: float
    kappa_high: float
    decided_agreement: float
    """The same share among the comparisons that neither side calls a tie (MT-bench's setup S2); NaN where there is none. An oracle without
    a tie margin hardly ever says tie, so that the other shares count each tie among the labels as an error of the oracle."""
    confidence: float
    """Of the intervals."""
    comparisons: int
    """How many the oracle decided on."""
    unanswered: int
    """On how many it abstained; no other number includes them."""
    confusion: tuple[tuple[int, ...], ...]
    """Comparisons by label (row) and verdict (column), each in the order first, second, tie."""
    no_majority: int = 0
    """Comparisons that were left out because no label has more than half of the votes."""
    people_kappa: float = float("nan")
    """Mean of Cohen's kappa over all pairs of people, as a measure of what can be reached; NaN where each comparison has one label."""
    oracle: Mapping[str, float] = field(default_factory=dict)
    """The oracle's metrics: means, and sums of each ``Total``."""


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
        prompts: (N,) the prompt of each comparison. Comparisons of one prompt are resampled together, since they are not independent.
        tie_margin: verdicts within this distance of one half are ties.
        resamples: of the percentile bootstrap.
        confidence: of the intervals, in (0, 1).
        seed: of the bootstrap.

    Raises:
        DataError: a label is none of the three.
        OracleError: the oracle abstained on every comparison.
        ValueError: the lengths differ.
    """
    tables = _tables([None if np.isnan(chance) else label_of(chance, tie_margin) for chance in chances], labels, prompts)
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


def _tables(verdicts: Sequence[Label | None], labels: Sequence[Label], prompts: Sequence[str]) -> Array:
    """(prompts, 3, 3) comparisons of each prompt by label and verdict; those without a verdict are left out."""
    places = {prompt: place for place, prompt in enumerate(dict.fromkeys(prompts))}
    tables = np.zeros((len(places), len(LABELS), len(LABELS)))
    for number, (prompt, label, verdict) in enumerate(zip(prompts, labels, verdicts, strict=True)):
        if label not in LABELS:
            raise DataError(f"label {number}: expected one of {', '.join(LABELS)}, got {label!r}")
        if verdict is not None:
            tables[places[prompt], LABELS.index(label), LABELS.index(verdict)] += 1
    return tables


def label_of(chance: float, tie_margin: float) -> Label:
    """The label that P(first > second) stands for."""
    if abs(chance - 0.5) <= max(tie_margin, TIE):
        return "tie"
    return "first" if chance > 0.5 else "second"


def majority(votes: Sequence[T]) -> T | None:
    """The vote that more than half of the voters gave; None where there is none."""
    if not votes:
        return None
    vote, count = Counter(votes).most_common(1)[0]
    return vote if 2 * count > len(votes) else None


def cohens_kappa(a: Sequence[Hashable], b: Sequence[Hashable]) -> float:
    """Agreement of two annotators beyond chance: (p_o - p_e) / (1 - p_e).

    p_o is the share of items on which they agree; p_e is the share that is expected if each gives the labels at random, at the rates at
    which this annotator gave them.
    Source: Cohen, "A coefficient of agreement for nominal scales", 1960, equation 1.

    Args:
        a: (N,) labels.
        b: (N,) labels of the same items.

    Returns:
        1 for full agreement, 0 for what chance gives, below 0 for less; NaN where both gave the same single label throughout.

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
    """(...) the share of the counts that lies on the diagonal."""
    return _ratio(np.trace(table, axis1=-2, axis2=-1), table.sum(axis=(-2, -1)))


def _ratio(part: Array, whole: Array) -> Array:
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=np.asarray(whole > 0))


def _interval(values: Array, confidence: float) -> tuple[float, float]:
    """Percentile interval over the resamples in which the value is defined."""
    if np.isnan(values).all():
        return float("nan"), float("nan")
    low, high = percentiles(values[:, None], confidence)
    return float(low[0]), float(high[0])
