"""The seam between an algorithm's loss and the learner.

Shapes: B examples of a micro-batch, S sequences of an example (a pair: 2, winner first; all K: up to K), K responses of a prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from raypref.registry import Registry
from raypref.section import TypedSection
from raypref.types import PreferenceMatrix

if TYPE_CHECKING:
    from torch import Tensor

Frozen = Literal["reference", "previous"]
"""Whose frozen log-probs a loss needs: pi_ref's (the fixed reference) or pi_t's (the policy that sampled the responses)."""


@dataclass(frozen=True, slots=True)
class LossBatch:
    """What a loss is computed from. All log-probs are summed over response tokens, in nats; padding entries hold 0."""

    logps: Tensor
    """(B, S) log pi_theta(y | x); the only argument with a gradient."""
    reference_logps: Tensor | None
    """(B, S) log pi_ref(y | x); None unless the loss needs it."""
    previous_logps: Tensor | None
    """(B, S) log pi_t(y | x); None unless the loss needs it."""
    targets: Tensor
    """(B, S) what ``Loss.targets`` made of the preference matrix."""
    lengths: Tensor
    """(B, S) response tokens."""
    mask: Tensor
    """(B, S) True where there is a sequence (a group may have lost some responses)."""
    statistics: Mapping[str, Tensor] = field(default_factory=dict)
    """Name -> () mean over the GLOBAL batch of what ``Loss.statistics`` gave; without a gradient."""


@dataclass(frozen=True, slots=True)
class LossValue:
    """Per-example values; the learner takes the exact mean over the global batch, whatever the split."""

    loss: Tensor
    """(B,)"""
    metrics: dict[str, Tensor]
    """Name -> (B,), averaged like the loss and written under ``loss/``; without a gradient."""


class Loss(TypedSection):
    """One algorithm: its settings and its formula. Subclass, set ``needs``, write ``__call__``; no other file changes."""

    needs: ClassVar[frozenset[Frozen]] = frozenset()
    """Which frozen log-probs the loss reads."""
    reduction: ClassVar[Literal["examples", "tokens"]] = "examples"
    """What the sum over the global batch is divided by: the number of examples, or of response tokens."""
    revisions: ClassVar[bool] = False
    """Whether an example of a pair (w, l) holds six sequences: w, l given the prompt; w, l given the prompt and w as an earlier answer;
    w, l given the prompt and l as an earlier answer (in this order along S). The earlier answer is put in the prompt by a template."""
    mismatched: ClassVar[bool] = False
    """Whether an example holds twice the sequences: behind its own S come the same prompts with the responses of another prompt."""

    def targets(self, matrix: PreferenceMatrix, picked: tuple[int, ...]) -> NDArray[np.float64]:
        """(S,) per-sequence targets from the group's matrix; computed once, where the group was judged.

        Args:
            matrix: the group's K x K preferences.
            picked: indices into the group of the example's S sequences.
        """
        return np.zeros(len(picked))

    def statistics(self, batch: LossBatch) -> dict[str, Tensor]:
        """What the loss needs to know of the global batch: name -> (B,), whose means it is given as ``LossBatch.statistics``.

        Where it is overridden the learner makes a first pass over the batch, without gradient.
        """
        return {}

    def __call__(self, batch: LossBatch) -> LossValue:
        raise NotImplementedError


losses: Registry[Loss] = Registry("loss", Loss, "raypref.losses")
