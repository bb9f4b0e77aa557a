"""The order in which a pair is shown, for oracles that read two responses in one input.

    a question's pair (i, j)  ->  shown as (i, j), as (j, i), or both  ->  P(first > second) of each  ->  P[i, j], position bias

Such an oracle prefers a position. With both orders, the two verdicts are averaged. With one order, a hash of the texts decides which, so
that the preference affects all responses alike. Two responses with the same text are a tie and are not shown.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Literal

import numpy as np

from raypref.oracles.base import ABSTAIN, Answer, Question

Orders = Literal["both", "one"]
Pair = tuple[int, int]


def shown(question: Question, orders: Orders) -> list[Pair]:
    """The inputs to make: (shown first, shown second); the orders of one pair follow each other."""
    different = [(i, j) for i, j in question.pairs if question.responses[i] != question.responses[j]]
    if orders == "both":
        return [order for i, j in different for order in ((i, j), (j, i))]
    return [pair if _coin(question, pair) else pair[::-1] for pair in different]


def _coin(question: Question, pair: Pair) -> bool:
    """Whether to show the first response first; depends on the texts alone, not on their places in the group."""
    a, b = (question.responses[k] for k in pair)
    digest = hashlib.sha256("\0".join((question.prompt, *sorted((a, b)))).encode("utf-8", "surrogatepass")).digest()
    return (digest[0] % 2 == 0) == (a <= b)


def combine(question: Question, first_wins: Mapping[Pair, float | None]) -> Answer:
    """The matrix from verdicts on inputs: P[i, j] is the mean of P(i > j) over the orders that have a verdict.

    Args:
        question: what was asked.
        first_wins: (shown first, shown second) -> P(first > second) in [0, 1]; None or missing where there is no verdict.

    Returns:
        the answer. It abstains on a pair without a verdict; equal texts are a tie. ``oracle/position_bias`` has, for each pair with both
        verdicts, the sum of P(first > second) over the two orders, minus 1: 0 without a bias, above 0 where the first position helps.
    """
    size = len(question.responses)
    values = np.full((size, size), 0.5)
    biases = []
    for i, j in question.pairs:
        if question.responses[i] == question.responses[j]:
            continue
        forward, backward = first_wins.get((i, j)), first_wins.get((j, i))
        chances = [chance for chance in (forward, None if backward is None else 1.0 - backward) if chance is not None]
        values[i, j] = sum(chances) / len(chances) if chances else ABSTAIN
        values[j, i] = 1.0 - values[i, j] if chances else ABSTAIN
        if forward is not None and backward is not None:
            biases.append(forward + backward - 1.0)
    return Answer(values, {"oracle/position_bias": biases})
