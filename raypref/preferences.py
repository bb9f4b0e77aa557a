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

TIE = 1e-9
"""Figures that are closer than this are equal: the order in which a mean was added up must not decide."""


class Unanswered(OracleError):
    """A figure was asked for that depends on comparisons to which there is no answer."""


def unknown(size: int) -> Matrix:
    """(K, K) with nothing known but the diagonal."""
    values = np.full((size, size), np.nan)
    np.fill_diagonal(values, 0.5)
    return values


def complete_rows(values: Matrix) -> NDArray[np.intp]:
    """Indices of the responses that were compared with every other one, ascending."""
    return np.flatnonzero(~np.isnan(values).any(axis=1))


def win_rates(values: Matrix, rows: Iterable[int] | None = None) -> NDArray[np.float64]:
    """Row means, the diagonal's one half included: w_i = (1/K) sum_j P[i, j].

    Source: SPPO (3.5), whose sum runs over all K responses, y_i itself among them.

    Args:
        values: (K, K).
        rows: which responses; default: all.

    Returns:
        (len(rows),) in [0, 1].

    Raises:
        Unanswered: a row is incomplete; a win rate over a part of it would be a guess.
    """
    picked = np.arange(len(values)) if rows is None else np.asarray(list(rows), dtype=np.intp)
    return _complete(values, picked, "win rate").mean(axis=1)


def mean_scores(values: Matrix, rows: Iterable[int] | None = None) -> NDArray[np.float64]:
    """Row means of the scores s[i, j] = log P[i, j] - log P[j, i], the diagonal's zero included.

    Source: SPPO Appendix F, s_PairRM(y_i) = (1/K) sum_k s(y_i, y_k). Probabilities of exactly 0 and 1 count as 1e-12 and 1 - 1e-12.

    Args:
        values: (K, K).
        rows: which responses; default: all.

    Returns:
        (len(rows),) in nats.

    Raises:
        Unanswered: a row is incomplete.
    """
    picked = np.arange(len(values)) if rows is None else np.asarray(list(rows), dtype=np.intp)
    chances = np.clip(_complete(values, picked, "mean score"), 1e-12, 1 - 1e-12)
    return (np.log(chances) - np.log1p(-chances)).mean(axis=1)


def _complete(values: Matrix, rows: NDArray[np.intp], figure: str) -> Matrix:
    found: Matrix = values[rows]
    holes = np.argwhere(np.isnan(found))
    if len(holes):
        row, column = int(rows[holes[0][0]]), int(holes[0][1])
        raise Unanswered(f"no {figure} for response {row}: its comparison with response {column} has no answer")
    return found


def penalise(values: Matrix, truncated: NDArray[np.bool_], amount: float) -> Matrix:
    """Move the verdicts on cut-off responses towards losing against every finished one.

    For y_i cut off and y_j finished: P'[i, j] = (1 - amount) P[i, j] and P'[j, i] = 1 - P'[i, j]. Other entries stay, unknown ones too.

    Args:
        values: (K, K).
        truncated: (K,) True where the response was cut off.
        amount: in [0, 1]; 0 leaves the verdict, 1 makes it a certain loss.
    """
    losing = truncated[:, None] & ~truncated[None, :]
    moved = np.where(losing, (1.0 - amount) * values, values)
    return np.where(losing.T, 1.0 - moved.T, moved)


def has_cycle(values: Matrix) -> bool:
    """Whether the majority relation (y_i beats y_j when P[i, j] > 1/2) has a cycle, such as stone, paper and scissors.

    Unknown entries and ties are no edges. Responses that nobody left beats are taken away until none is; what remains holds a cycle.
    """
    beats = np.nan_to_num(values, nan=0.5) > 0.5 + TIE
    left = np.ones(len(values), dtype=bool)
    while left.any():
        beaten = beats[left].any(axis=0)
        if beaten[left].all():
            return True
        left &= beaten
    return False
