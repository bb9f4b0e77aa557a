"""Which response of a pair is the winner."""

from __future__ import annotations

from typing import Literal

import numpy as np

from raypref.preferences import TIE, Matrix

Winner = Literal["likelier", "drawn"]
"""likelier: the response with P above 1/2; drawn: y wins with probability P(y > y'), the preference distribution of INPO (1), which
INPO's Proposition 6 and SRPO's sample losses assume."""
Ties = Literal["drop", "first"]
"""A pair whose P is 1/2, with ``winner: likelier``: no example, or the first response wins. A drawn winner is a fair coin's."""


def ordered(values: Matrix, pair: tuple[int, int], winner: Winner, ties: Ties, draw: np.random.Generator) -> tuple[int, int] | None:
    """The pair as (winner, loser).

    Args:
        values: (K, K).
        pair: (i, j).
        winner: how it is found.
        ties: what becomes of a pair of equals.
        draw: used with ``winner: drawn``, one number a pair with an answer.

    Returns:
        None where there is no answer, and for a tie that is dropped.
    """
    i, j = pair
    chance = values[i, j]
    if np.isnan(chance):
        return None
    if winner == "drawn":
        return (i, j) if draw.random() < chance else (j, i)
    if abs(chance - 0.5) <= TIE:
        return (i, j) if ties == "first" else None
    return (i, j) if chance > 0.5 else (j, i)
