"""A panel of three judges who want different things. Its preferences are not transitive.

Each judge scores an answer and votes for the one that it scores higher; a tie is no vote. P(a > b) = sigmoid(votes for a - votes for b).
The first judge wants vivid answers (different adjectives), the second short ones, the third answers about what was asked (mentions of
the prompt's animal and place). Two judges of three can prefer a to b, another two b to c, and another two c to a.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from examples.quickstart.grammar import ADJECTIVES, ANIMALS, PLACES

VIVID = frozenset(ADJECTIVES)
NOUNS = frozenset(ANIMALS + PLACES)


def panel(prompts: list[str], responses: list[list[str]]) -> list[NDArray[np.float64]]:
    """P[i, j] = P(response i > response j), one (K, K) matrix for each prompt."""
    return [_preferences(np.array([_scores(prompt, text) for text in group])) for prompt, group in zip(prompts, responses, strict=True)]


def _scores(prompt: str, response: str) -> tuple[int, int, int]:
    words = response.replace(".", " ").lower().split()
    asked = NOUNS & set(prompt.split())
    return len(VIVID & set(words)), -len(words), sum(word in asked for word in words)


def _preferences(scores: NDArray[np.int64]) -> NDArray[np.float64]:
    """(K, 3) scores -> (K, K)."""
    votes = np.sign(scores[:, None, :] - scores[None, :, :]).sum(axis=-1)
    return 1.0 / (1.0 + np.exp(-votes.astype(np.float64)))
