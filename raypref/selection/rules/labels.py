"""Which response of a pair is the chosen one."""

from __future__ import annotations

from typing import Literal

import numpy as np

from raypref.preferences import TIE, Matrix

Chosen = Literal["likelier", "drawn"]
"""likelier: the response with P above 1/2; drawn: y with probability P(y > y'), the preference distribution of INPO (1), which INPO's
Proposition 6 and SRPO's sample losses assume."""
Ties = Literal["drop", "first"]
"""What becomes of a pair with P = 1/2, with ``chosen: likelier``: no example, or the first response is chosen."""


def ordered(values: Matrix, pair: tuple[int, int], chosen: Chosen, ties: Ties, draw: np.random.Generator) -> tuple[int, int] | None:
    """The pair as (chosen, rejected).

    Args:
        values: (K, K).
        pair: (i, j).
        chosen: which of the two responses is the chosen one.
        ties: what becomes of a tie, with ``chosen: likelier``.
        draw: used with ``chosen: drawn``, one number per pair with an answer; a tie is decided by a fair coin.

    Returns:
        None if there is no answer, or if a tie is dropped.
    """
    i, j = pair
    chance = values[i, j]
    if np.isnan(chance):
        return None
    if chosen == "drawn":
        return (i, j) if draw.random() < chance else (j, i)
    if abs(chance - 0.5) <= TIE:
        return (i, j) if ties == "first" else None
    return (i, j) if chance > 0.5 else (j, i)
