"""The contracts between the driver and the four roles.

The driver is written against these Protocols alone. ``actors`` implements them on Ray; the driver's tests implement them in a few
lines of plain Python. A ``Ref`` stands for a value that lives elsewhere: Ray's ``ObjectRef`` in a run, the value itself in a test. The
driver passes references on and never resolves them.

Every method is a coroutine that ends in a result, or in the first cause of a failure, within the role's own time-out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from raypref import types

Ref = Any

Checksums = Mapping[str, int]
"""Parameter name -> checksum of the tensor's bytes as it was sent or received."""

Audience = Literal["all", "engines"]
"""Which copies of the policy a weight sync changes: all of them, or the engines alone, while the references keep pi_t."""


class WeightReceiver(Protocol):
    """A role that holds a copy of the policy's weights."""

    async def weight_checksums(self) -> Mapping[str, Checksums]:
        """Replica name -> checksums of the tensors of the last weight sync, as that replica received them."""
        ...


class RolloutRole(WeightReceiver, Protocol):
    """Engines that sample from the policy of the last weight sync."""

    async def sample(self, request: types.SampleRequest) -> Ref:
        """Reference to the ``Rollout`` that answers ``request``, from whichever engine is least busy."""
        ...

    async def probe(self, requests: Sequence[types.SampleRequest]) -> Mapping[str, Sequence[types.Rollout]]:
        """Every engine's own answer to the same requests, by engine name (the sync check)."""
        ...


class ReferenceRole(WeightReceiver, Protocol):
    """Frozen log-probs: pi_ref and pi_t, two slots of which a loss may need none, one or both."""

    async def score(self, examples: Ref) -> Ref:
        """Reference to the same tuple of ``Example`` with the log-probs that the loss needs filled in."""
        ...

    async def refresh(self, directory: Path) -> None:
        """The policy that the learner exported to ``directory`` is pi_ref from now on."""
        ...

    async def probe(self, sequences: Sequence[types.TokenSequence]) -> Mapping[str, Sequence[NDArray[np.float64]]]:
        """Per-token log-probs (T_s,) under each replica's copy of pi_t, by replica name; empty without that slot."""
        ...


class OracleRole(Protocol):
    """Judges that turn a rollout into training examples: preferences, selection, targets."""

    async def judge(self, rollout: Ref, partner: Ref | None = None) -> tuple[types.Verdict, Ref]:
        """Verdict on the group, and a reference to its tuple of ``Example``.

        Args:
            rollout: reference to the ``Rollout`` that is judged.
            partner: another prompt's, where the loss wants mismatched sequences (``Loss.mismatched``).
        """
        ...

    async def compare(self, challenger: Ref, defender: Ref) -> types.Comparison:
        """Two policies' rollouts on the same held-out prompt, against each other (evaluation)."""
        ...

    async def matrix(self, rollout: Ref) -> types.PreferenceMatrix:
        """Every response of a rollout against every other (evaluation)."""
        ...

    async def seal(self, iteration: int) -> None:
        """Close the iteration's journal: what was judged so far is readable on disk."""
        ...


class LearnerRole(Protocol):
    """The group of ranks that trains the policy."""

    async def step(self, batch: Sequence[types.Slice]) -> Mapping[str, float]:
        """One optimiser step on the exact mean over the batch; its metrics.

        Raises ``raypref.errors.LossNotFinite`` before the parameters are touched when the loss or its gradient is not finite.
        """
        ...

    async def begin_iteration(self, iteration: int, steps: int) -> None:
        """Tell the learner that pi_t is now the current policy, and how many steps the iteration will have at most."""
        ...

    async def regularise(self, rollouts: Sequence[Ref]) -> None:
        """Evaluate the regulariser on these responses, references to ``Rollout``, from the next step on (``regulariser`` section)."""
        ...

    async def refresh_reference(self, directory: Path) -> None:
        """The policy that ``export`` wrote to ``directory`` is pi_ref from now on."""
        ...

    async def sync(self, version: int, audience: Audience = "all") -> Checksums:
        """Copy the weights to the engines and references, under the name ``version``; checksums of what was sent.

        Args:
            version: the engines answer requests for this ``policy_version`` from now on.
            audience: ``engines`` for weights that are not pi_t (``raypref.loop.regulariser``): references keep what they have.
        """
        ...

    async def probe(self, sequences: Sequence[types.TokenSequence]) -> Sequence[NDArray[np.float64]]:
        """Per-token log-probs (T_s,) under the current policy."""
        ...

    async def save(self, directory: Path) -> None:
        """Write a checkpoint of the whole training state."""
        ...

    async def load(self, directory: Path) -> None:
        """Continue exactly from a checkpoint that ``save`` wrote."""
        ...

    async def export(self, directory: Path) -> None:
        """Write the policy as a Hugging Face model directory."""
        ...


@dataclass(frozen=True, slots=True)
class Roles:
    """Who does the work. A role that the run does not need is None."""

    learner: LearnerRole
    rollout: RolloutRole | None = None
    oracle: OracleRole | None = None
    reference: ReferenceRole | None = None
