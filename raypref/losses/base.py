"""The seam between an algorithm's loss and the learner.

Shapes: B examples of a micro-batch, S sequences of an example (a pair: 2, winner first; all K: up to K), K responses of a prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from raypref.registry import Registry, TypedSection
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
    token_kl: Tensor | None = None
    """(B, S) sum over the response's positions of KL(pi_theta || pi_ref) over the whole vocabulary, in nats, with its gradient; None
    unless the loss asks for it (``Loss.token_kl``)."""


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
    """Which frozen log-probs the loss reads. This and the other declarations may be properties, where the settings decide."""
    responses: ClassVar[tuple[int, int | None]] = (1, None)
    """Fewest and most responses that an example may be picked of; None: any number. The first is the best, the last the worst."""
    reduction: ClassVar[Literal["examples", "tokens"]] = "examples"
    """What the sum over the global batch is divided by: the number of examples, or of response tokens."""
    revisions: ClassVar[bool] = False
    """Whether an example of a pair (w, l) holds six sequences: w, l given the prompt; w, l given the prompt and w as an earlier answer;
    w, l given the prompt and l as an earlier answer (in this order along S). The earlier answer is put in the prompt by a template."""
    mismatched: ClassVar[bool] = False
    """Whether an example holds twice the sequences: behind its own S come the same prompts with the responses of another prompt."""
    token_kl: ClassVar[bool] = False
    """Whether the loss reads ``LossBatch.token_kl``: the learner then needs a frozen pi_ref of its own."""

    def targets(self, matrix: PreferenceMatrix, picked: tuple[int, ...]) -> NDArray[np.float64]:
        """One target for each picked response, from the group's matrix; computed once, where the group was judged.

        Where an example holds more sequences than picked responses (``revisions``: three times as many, ``mismatched``: twice as many),
        whoever adds them repeats the targets: ``np.tile(targets, 3)``, ``np.tile(targets, 2)``.

        Args:
            matrix: the group's K x K preferences.
            picked: indices into the group of the example's responses, best first.

        Returns:
            (len(picked),)
        """
        return np.zeros(len(picked))

    def statistics(self, batch: LossBatch) -> dict[str, Tensor]:
        """What the loss needs to know of the global batch: name -> (B,), whose means it is given as ``LossBatch.statistics``.

        The learner asks where ``has_statistics`` is true: in a first pass over the batch, without gradient.
        """
        return {}

    @property
    def has_statistics(self) -> bool:
        """Whether the first pass is worth its time; override it where that depends on the settings."""
        return type(self).statistics is not Loss.statistics

    def __call__(self, batch: LossBatch) -> LossValue:
        raise NotImplementedError


losses: Registry[Loss] = Registry("loss", Loss, "raypref.losses")
