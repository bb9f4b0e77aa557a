"""How the responses of a group compare: one figure per response, and the order by that figure.

K responses; ``values`` is the (K, K) preference matrix. A preference that is not transitive does not define an order, so the orders by
different figures may differ.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from raypref.preferences import TIE, Matrix
from raypref.types import PreferenceMatrix

By = Literal["win_rate", "score", "copeland"]
"""win_rate: mean of P[i, j]; score: mean of log(P[i, j] / P[j, i]), the SPPO paper's mean PairRM score; copeland: number of responses
beaten, a tie counting one half, which ranks a Condorcet winner first whatever the margins."""


def standing(matrix: PreferenceMatrix, rows: NDArray[np.intp], by: By) -> NDArray[np.float64]:
    """(len(rows),) the figure of each of ``rows`` against all K responses, or its estimate from a sample of opponents.

    Raises:
        Unanswered: a row is incomplete (by win_rate and score).
    """
    if by == "win_rate":
        return matrix.win_rates(rows)
    if by == "score":
        return matrix.mean_scores(rows)
    return copeland(matrix.values[rows]) * (matrix.size - 1) / matrix.opponents[rows].sum(axis=1)


def copeland(values: Matrix) -> NDArray[np.float64]:
    """(rows,) c_i = sum over j of [P[i, j] > 1/2] + [P[i, j] = 1/2] / 2, without the diagonal.

    Source: Copeland (1951). Unknown entries count 0.
    """
    wins = (values > 0.5 + TIE).sum(axis=1)
    ties = (np.abs(values - 0.5) <= TIE).sum(axis=1) - 1
    return wins + 0.5 * ties


def descending(figures: NDArray[np.float64]) -> tuple[NDArray[np.intp], int]:
    """Positions from the highest figure to the lowest, and how many neighbours in that order are equal.

    Of equal figures the first comes first. Figures are equal if each is within ``TIE`` of the next one.
    """
    order = np.argsort(-figures, kind="stable")
    falls = -np.diff(figures[order]) > TIE
    level = np.concatenate([[0], np.cumsum(falls)])
    return order[np.lexsort((order, level))], int(len(falls) - falls.sum())
