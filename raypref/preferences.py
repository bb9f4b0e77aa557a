"""The maths of preference matrices.

K responses of a prompt; ``values`` is (K, K) with P[i, j] = P(y_i > y_j), 1/2 on the diagonal, and NaN where nothing is known: not
asked, or the oracle abstained. Never assumed transitive.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from raypref.errors import OracleError

Matrix = NDArray[np.float64]
Mask = NDArray[np.bool_]

LEAST = 1e-12
"""The least probability in log-odds: 0 counts as this, and 1 as 1 - this, so that log-odds are at most 27.6 nats."""
TIE = 1e-9
"""Figures closer than this count as equal, so that rounding errors in a mean do not decide."""


class Unanswered(OracleError):
    """A figure depends on a comparison that has no answer."""


def unknown(size: int) -> Matrix:
    """(K, K) with NaN everywhere but on the diagonal."""
    values = np.full((size, size), np.nan)
    np.fill_diagonal(values, 0.5)
    return values


def complete_rows(values: Matrix, sample: Mask | None = None) -> NDArray[np.intp]:
    """Indices of the responses whose comparisons with all others, or with all of their ``sample``, have answers, ascending."""
    if sample is None:
        return np.flatnonzero(~np.isnan(values).any(axis=1))
    return np.flatnonzero(sample.any(axis=1) & ~(np.isnan(values) & sample).any(axis=1))


def win_rates(values: Matrix, rows: Iterable[int] | None = None, sample: Mask | None = None) -> NDArray[np.float64]:
    """Row means, the diagonal's one half included: w_i = (1/K) sum_j P[i, j].

    Source: SPPO (3.5), whose sum runs over all K responses, y_i itself among them. With a ``sample`` of opponents S_i the
    mean over them replaces that over all others, (1/K) (1/2 + (K - 1) mean_{j in S_i} P[i, j]): unbiased if the sample is random.

    Args:
        values: (K, K).
        rows: which responses; default: all.
        sample: (K, K) True if response j was drawn as an opponent of i, False on the diagonal; default: all others are opponents.

    Returns:
        (len(rows),) in [0, 1].

    Raises:
        Unanswered: a row is incomplete, and the mean over a part of it would be biased.
    """
    return _row_means(values, rows, sample, "win rate")


def mean_scores(values: Matrix, rows: Iterable[int] | None = None, sample: Mask | None = None) -> NDArray[np.float64]:
    """Row means of the scores s[i, j] = log P[i, j] - log P[j, i], the diagonal's zero included.

    Source: SPPO Appendix F, s_PairRM(y_i) = (1/K) sum_k s(y_i, y_k). Probabilities below 1e-12 and above 1 - 1e-12 count as these, so that
    a score is at most 27.6 nats: a difference of two rewards beyond that is cut, and a certain verdict counts 27.6. The metric
    ``oracle/saturated`` is the share of such verdicts.

    Args:
        values: (K, K).
        rows: which responses; default: all.
        sample: as in ``win_rates``.

    Returns:
        (len(rows),) in nats.

    Raises:
        Unanswered: a row is incomplete.
    """
    return _row_means(log_odds(values), rows, sample, "mean score")


def log_odds(values: Matrix) -> Matrix:
    """(K, K) log P[i, j] - log P[j, i] in nats, at most 27.6 (``LEAST``); NaN stays NaN."""
    chances = np.clip(values, LEAST, 1 - LEAST)
    scores: Matrix = np.log(chances) - np.log1p(-chances)
    return scores


def sigmoid(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 / (1 + exp(-s)) without overflow, and with sigmoid(s) + sigmoid(-s) = 1."""
    chances: NDArray[np.float64] = np.exp(-np.logaddexp(0.0, -scores))
    return chances


def _row_means(figures: Matrix, rows: Iterable[int] | None, sample: Mask | None, name: str) -> NDArray[np.float64]:
    picked = np.arange(len(figures)) if rows is None else np.asarray(list(rows), dtype=np.intp)
    counted = ~np.eye(len(figures), dtype=bool) if sample is None else sample
    for row in picked:
        if not counted[row].any() and len(figures) > 1:
            raise Unanswered(f"no {name} for response {row}: it was compared with no other response")
        holes = np.flatnonzero(counted[row] & np.isnan(figures[row]))
        if len(holes):
            raise Unanswered(f"no {name} for response {row}: its comparison with response {holes[0]} has no answer")
    others = [figures[row, counted[row]].mean() if counted[row].any() else 0.0 for row in picked]
    return (figures[picked, picked] + (len(figures) - 1) * np.array(others)) / len(figures)


def sppo_preferences(values: Matrix) -> Matrix:
    """sigmoid(g_i - g_j) with g_i = (2/K) sum_j logit P[i, j]: the preferences that the SPPO authors' code derives for a group.

    Source: ``scripts/compute_prob.py`` of github.com/uclaml/SPPO, on the scores of llm-blender's ``Blender.rank``, which are the row means
    of C - C^T. Scores come from the log-odds of the probabilities, which are cut at 27.6 nats (``mean_scores``). Transitive by
    construction. For a group of two, the logit is twice that of P.

    Args:
        values: (K, K).

    Returns:
        (K, K); all NaN but the diagonal if a comparison has no answer, since every score depends on all comparisons.
    """
    if np.isnan(values).any():
        return unknown(len(values))
    scores = 2.0 * mean_scores(values)
    return sigmoid(scores[:, None] - scores[None, :])


def random_opponents(size: int, count: int, seed: int) -> Mask:
    """(size, size) True where j is an opponent of i: ``count`` others per response, or all others if there are no more.

    The responses are placed on a circle in random order, and each meets its nearest neighbours. With an odd ``count`` each also meets the
    opposite one; if ``size`` is odd as well, one response has one more opponent.
    """
    if count >= size - 1:
        return ~np.eye(size, dtype=bool)
    order = np.random.default_rng(seed).permutation(size)
    met = np.zeros((size, size), dtype=bool)
    for place in range(size):
        for step in range(1, count // 2 + 1):
            met[order[place], order[(place + step) % size]] = True
    if count % 2:
        for place in range((size + 1) // 2):
            met[order[place], order[(place + size // 2) % size]] = True
    return met | met.T


def penalise(values: Matrix, truncated: NDArray[np.bool_], amount: float) -> Matrix:
    """Lower the probability that a cut-off response beats a finished one.

    For y_i cut off and y_j finished: P'[i, j] = (1 - amount) P[i, j] and P'[j, i] = 1 - P'[i, j]. Other entries are unchanged.

    Args:
        values: (K, K).
        truncated: (K,) True if the response was cut off.
        amount: in [0, 1]; 0 changes nothing, 1 makes the cut-off response lose for certain.
    """
    losing = truncated[:, None] & ~truncated[None, :]
    moved = np.where(losing, (1.0 - amount) * values, values)
    return np.where(losing.T, 1.0 - moved.T, moved)


def has_cycle(values: Matrix) -> bool:
    """Whether the majority relation (y_i beats y_j when P[i, j] > 1/2) has a cycle, such as stone, paper and scissors.

    Unknown entries and ties are not edges. Responses that no remaining one beats are removed, again and again; if
    any remain, they contain a cycle.
    """
    beats = np.nan_to_num(values, nan=0.5) > 0.5 + TIE
    remaining = np.ones(len(values), dtype=bool)
    while remaining.any():
        beaten = beats[remaining].any(axis=0)
        if beaten[remaining].all():
            return True
        remaining &= beaten
    return False


def cycle(values: Matrix) -> tuple[int, ...]:
    """A shortest cycle of the majority relation, (i, j, k) for y_i beats y_j beats y_k beats y_i; empty where there is none.

    The edges are those of ``has_cycle``. Breadth-first from each response: K^3 steps.
    """
    beats = np.nan_to_num(values, nan=0.5) > 0.5 + TIE
    shortest: tuple[int, ...] = ()
    for start in range(len(values)):
        paths: dict[int, tuple[int, ...]] = {start: (start,)}
        waiting = [start]
        for here in waiting:
            if beats[here, start] and (not shortest or len(paths[here]) < len(shortest)):
                shortest = paths[here]
            for there in np.flatnonzero(beats[here]).tolist():
                if there not in paths:
                    paths[there] = (*paths[here], there)
                    waiting.append(there)
    return shortest


def entropy(values: Matrix) -> float:
    """Mean over the answered comparisons of -P log P - (1 - P) log(1 - P), in nats: log 2 if all are ties, 0 if all are certain.

    NaN if there is no answer.
    """
    chances = values[np.triu(~np.isnan(values), 1)]
    if not len(chances):
        return float("nan")
    both = np.stack([chances, 1.0 - chances])
    return float(-(both * np.log(np.where(both > 0, both, 1.0))).sum(axis=0).mean())


def rank_correlation(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Spearman's rank correlation; equal figures share their mean rank. NaN if all figures of one side are equal.

    Args:
        first: (N,)
        second: (N,)
    """
    ranks = [_ranks(figures) for figures in (first, second)]
    if any(np.ptp(side) == 0 for side in ranks):
        return float("nan")
    return float(np.corrcoef(np.stack(ranks))[0, 1])


def _ranks(figures: NDArray[np.float64]) -> NDArray[np.float64]:
    below = (figures[None, :] < figures[:, None] - TIE).sum(axis=1)
    level = (np.abs(figures[None, :] - figures[:, None]) <= TIE).sum(axis=1)
    return below + (level - 1) / 2.0
