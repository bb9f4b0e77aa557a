"""The contract between a loss and the learner: what a loss declares, what it is given, what it returns.

Shapes: B examples of a micro-batch, S sequences of an example (a pair: 2, chosen first; all K: up to K), K responses of a prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from raypref.registry import Registry, TypedSection
from raypref.types import PreferenceMatrix

if TYPE_CHECKING:
    from torch import Tensor

Frozen = Literal["reference", "previous"]
"""A frozen policy whose log-probs a loss reads: pi_ref, the reference policy, or pi_t, the previous policy (it sampled the responses)."""


@dataclass(frozen=True, slots=True)
class LossBatch:
    """The input of a loss. All log-probs are in nats and summed over response tokens; padding entries hold 0."""

    logps: Tensor
    """(B, S) log pi_theta(y | x), with its gradient."""
    reference_logps: Tensor | None
    """(B, S) log pi_ref(y | x); None unless the loss needs it."""
    previous_logps: Tensor | None
    """(B, S) log pi_t(y | x); None unless the loss needs it."""
    targets: Tensor
    """(B, S) the result of ``Loss.targets``."""
    lengths: Tensor
    """(B, S) number of response tokens."""
    mask: Tensor
    """(B, S) True where there is a sequence, False at padding: examples may have different numbers of sequences."""
    statistics: Mapping[str, Tensor] = field(default_factory=dict)
    """Name -> () mean of ``Loss.statistics`` over the GLOBAL batch, without a gradient."""
    token_kl: Tensor | None = None
    """(B, S) KL(pi_theta || pi_ref) over the whole vocabulary, summed over the response's positions, in nats, with its gradient; None
    unless the loss asks for it (``Loss.token_kl``)."""


@dataclass(frozen=True, slots=True)
class LossValue:
    """The output of a loss: values per example. The learner takes their exact mean over the global batch, however it is split."""

    loss: Tensor
    """(B,)"""
    metrics: dict[str, Tensor]
    """Name -> (B,), averaged like the loss, without a gradient. Full names, as in ``docs/metrics.md``; others in ``extra_metrics``."""


class Loss(TypedSection):
    """One algorithm: its settings and its formula.

    A subclass declares what it needs, writes ``__call__``, and overrides ``targets`` and ``statistics`` if it uses them. No other file
    changes. Each declaration is a property with a default. A subclass overrides it with a class attribute, or with a property if its
    settings decide:

    >>> needs: ClassVar[frozenset[Frozen]] = frozenset({"reference"})

    >>> @property
    ... def needs(self) -> frozenset[Frozen]:
    ...     return frozenset({self.reference})
    """

    @property
    def needs(self) -> frozenset[Frozen]:
        """The frozen log-probs that the loss reads; by default none."""
        return frozenset()

    @property
    def responses(self) -> tuple[int, int | None]:
        """The smallest and the largest number of responses of an example; None: no limit. The best comes first, the worst last."""
        return (1, None)

    @property
    def reduction(self) -> Literal["examples", "tokens"]:
        """What the sum over the global batch is divided by: the number of examples, or of response tokens."""
        return "examples"

    @property
    def revisions(self) -> bool:
        """Whether an example of a pair (w, l) = (chosen, rejected) holds six sequences.

        In this order along S: w and l given the prompt; w and l given the prompt and w as an earlier answer; w and l given the prompt and
        l as an earlier answer. A template puts the earlier answer into the prompt.
        """
        return False

    @property
    def mismatched(self) -> bool:
        """Whether an example holds twice as many sequences: after its own S, the same prompts with the responses of another prompt."""
        return False

    @property
    def token_kl(self) -> bool:
        """Whether the loss reads ``LossBatch.token_kl``. Each learner rank then holds a frozen copy of pi_ref."""
        return False

    def targets(self, matrix: PreferenceMatrix, picked: tuple[int, ...]) -> NDArray[np.float64]:
        """One target per picked response, computed from the group's preference matrix when the group is judged.

        Where an example holds more sequences than picked responses, the targets are repeated for them afterwards:
        ``np.tile(targets, 3)`` with ``revisions``, ``np.tile(targets, 2)`` with ``mismatched``.

        Args:
            matrix: the group's K x K preferences.
            picked: indices into the group of the example's responses, best first.

        Returns:
            (len(picked),)

        Raises:
            Unanswered: a target depends on a comparison without an answer.
            ConfigError: the loss does not take this number of responses.
        """
        return np.zeros(len(picked))

    def labelled_target(self, desirable: bool) -> float | None:
        """The target of a response that the data calls desirable or undesirable by itself; by default None: such data is refused."""
        return None

    def statistics(self, batch: LossBatch) -> dict[str, Tensor]:
        """Quantities whose means over the global batch the loss needs: name -> (B,).

        The means come back as ``LossBatch.statistics``. They cost a first pass over the batch, without gradient, which the learner makes
        if ``has_statistics`` is true.
        """
        return {}

    @property
    def has_statistics(self) -> bool:
        """Whether the first pass is needed; by default, whether the class overrides ``statistics``."""
        return type(self).statistics is not Loss.statistics

    def __call__(self, batch: LossBatch) -> LossValue:
        """The loss of each example, and its metrics."""
        raise NotImplementedError


losses: Registry[Loss] = Registry("loss", Loss, "raypref.losses")
