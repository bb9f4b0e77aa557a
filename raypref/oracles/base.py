"""The seam between a preference oracle and the system."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raypref.registry import Registry
from raypref.section import TypedSection


@dataclass(frozen=True, slots=True)
class Question:
    """Compare responses to one prompt."""

    prompt_id: str
    prompt: str
    """The bare question, without a chat template."""
    responses: tuple[str, ...]
    pairs: tuple[tuple[int, int], ...]
    """The comparisons that are wanted: (i, j) with i < j."""


class Oracle(TypedSection):
    """A source of preferences. The section is its settings; ``load`` builds what is heavy, once, in the oracle actor."""

    def load(self) -> None:
        """Load models and open connections, before the first question. Settings stay frozen; hold state in private attributes."""

    def compare(self, questions: Sequence[Question]) -> list[NDArray[np.float64]]:
        """A (K, K) matrix for each question: P[i, j] = P(response i > response j), P + P^T = 1, 1/2 on the diagonal.

        Only the entries of ``pairs`` (and their mirror images) are read. An entry on which the oracle abstains is ``ABSTAIN``.
        """
        raise NotImplementedError


ABSTAIN = -1.0
"""What an oracle puts where it cannot tell; it is masked and counted. NaN is an error, never an abstention."""

oracles: Registry[Oracle] = Registry("oracle", Oracle, "raypref.oracles")
