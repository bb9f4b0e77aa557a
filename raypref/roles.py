"""The contracts between the driver and the four roles.

The driver is written against these Protocols alone. ``actors`` implements them on Ray; the driver's tests implement them in a few lines
of plain Python. Rollouts and examples travel as references (``RolloutRef``, ``ExamplesRef``), which the driver passes on and never
resolves.

Every method is a coroutine. It returns a result, or raises the first cause of a failure, within the time-out of its role.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from raypref import types
from raypref.errors import SyncError
from raypref.types import ExamplesRef, RolloutRef

Checksums = Mapping[str, int]
"""Parameter name -> checksum of the tensor's bytes, as they were sent or received."""


def check_received(replica: str, sent: Checksums, received: Checksums) -> None:
    """Raise SyncError, which names a tensor, unless a replica received what the learner sent."""
    if missing := sorted(sent.keys() - received.keys()):
        raise SyncError(f"sync: {replica} did not receive {len(missing)} of {len(sent)} tensors; the first is {missing[0]}")
    if extra := sorted(received.keys() - sent.keys()):
        raise SyncError(f"sync: {replica} received {len(extra)} tensors that were not sent; the first is {extra[0]}")
    wrong = [name for name in sent if sent[name] != received[name]]
    if wrong:
        raise SyncError(f"sync: {len(wrong)} of {len(sent)} tensors changed on their way to {replica}; the first is {wrong[0]}")


Audience = Literal["all", "engines"]
"""Which copies of the policy a weight sync changes: all of them, or the engines alone, while the references keep pi_t."""


class WeightReceiver(Protocol):
    """A role that holds a copy of the policy's weights."""

    async def weight_checksums(self) -> Mapping[str, Checksums]:
        """Replica name -> checksums of the tensors of the last weight sync, as that replica received them."""
        ...


class RolloutRole(WeightReceiver, Protocol):
    """Engines that sample from the policy of the last weight sync."""

    async def sample(self, request: types.SampleRequest) -> RolloutRef:
        """The rollout that answers ``request``, from the least busy engine."""
        ...

    async def probe(self, requests: Sequence[types.SampleRequest]) -> Mapping[str, Sequence[types.Rollout]]:
        """Engine name -> that engine's answers to the same requests (for the check of a weight sync)."""
        ...


class ReferenceRole(WeightReceiver, Protocol):
    """Computes log-probs under pi_ref and pi_t, two slots of which a loss may need none, one or both."""

    async def score(self, examples: ExamplesRef) -> ExamplesRef:
        """The same examples, with the log-probs that the loss needs filled in."""
        ...

    async def refresh(self, directory: Path) -> None:
        """Load the policy that the learner exported to ``directory`` as the new pi_ref."""
        ...

    async def seal(self, iteration: int) -> None:
        """Close the files of the scores so far; as ``OracleRole.seal``."""
        ...

    async def probe(self, sequences: Sequence[types.TokenSequence]) -> Mapping[str, Sequence[NDArray[np.float64]]]:
        """Per-token log-probs (T_s,) under each replica's copy of pi_t, by replica name; empty without that slot."""
        ...


class OracleRole(Protocol):
    """Turns a rollout into training examples: preferences, selection, targets."""

    async def judge(self, rollout: RolloutRef, partner: RolloutRef | None = None) -> tuple[types.Verdict, ExamplesRef]:
        """Judge one group; its verdict and its examples.

        Args:
            rollout: what is judged.
            partner: another prompt's rollout, where the loss wants mismatched responses (``Loss.mismatched``).
        """
        ...

    async def recall(self, request: types.SampleRequest) -> RolloutRef:
        """The recorded answer to a request whose origin the journal of an interrupted run holds; ``judge`` then asks the oracle nothing."""
        ...

    async def compare(self, challenger: RolloutRef, defender: RolloutRef) -> types.Comparison:
        """Compare two policies' rollouts on the same held-out prompt (evaluation)."""
        ...

    async def matrix(self, rollout: RolloutRef) -> types.PreferenceMatrix:
        """Compare every response of a rollout with every other (evaluation)."""
        ...

    async def seal(self, iteration: int) -> None:
        """Close the journal's files, so that all that was judged so far can be read from disk.

        Args:
            iteration: number of the iteration, from 1.
        """
        ...


class LearnerRole(Protocol):
    """The group of ranks that trains the policy."""

    async def step(self, batch: Sequence[types.Slice]) -> Mapping[str, float]:
        """Take one optimiser step on the exact mean of the loss over the batch; the step's metrics.

        Raises:
            LossNotFinite: the loss or its gradient is not finite; the parameters are as before.
        """
        ...

    async def evaluate(self, examples: Sequence[types.Slice]) -> Mapping[str, float]:
        """The loss under the current policy and its metrics, the exact means over the examples; nothing of the training state changes.

        The examples are one global batch, of any size: what a loss needs of the batch (``Loss.statistics``) is the mean over all of them.
        """
        ...

    async def likelihood(self, texts: Sequence[types.Slice]) -> Mapping[str, float]:
        """``text_nll``: -log pi_theta per response token of these examples, in nats, whatever the run's loss; nothing changes."""
        ...

    async def begin_iteration(self, iteration: int, steps: int) -> None:
        """Make the current policy pi_t.

        Args:
            iteration: t.
            steps: optimiser steps of the iteration if no group is dropped: the horizon of the learning rate's schedule.
        """
        ...

    async def regularise(self, rollouts: Sequence[RolloutRef]) -> None:
        """Evaluate the regulariser on these responses from the next step on (``regulariser`` section)."""
        ...

    async def refresh_reference(self, directory: Path) -> None:
        """Load the policy that ``export`` wrote to ``directory`` as the new pi_ref."""
        ...

    async def sync(self, version: int, audience: Audience = "all") -> Checksums:
        """Copy the weights to the engines and references, under the name ``version``; checksums of what was sent.

        Args:
            version: the engines answer requests for this ``policy_version`` from now on.
            audience: ``engines`` for weights that are not pi_t (``raypref.loop.regulariser_samples``): references keep what they have.
        """
        ...

    async def probe(self, sequences: Sequence[types.TokenSequence]) -> Sequence[NDArray[np.float64]]:
        """Per-token log-probs (T_s,) under the current policy."""
        ...

    async def save(self, directory: Path, policy: Path | None = None) -> None:
        """Begin to write a checkpoint of the whole training state as it is now; training may go on meanwhile.

        Args:
            directory: of the checkpoint.
            policy: where to write the policy, too, as ``export`` does.
        """
        ...

    async def saved(self) -> bool:
        """Whether all that ``save`` began is written. Raises what went wrong with it."""
        ...

    async def load(self, directory: Path) -> None:
        """Continue exactly from a checkpoint that ``save`` wrote."""
        ...

    async def export(self, directory: Path) -> None:
        """Write the policy as a Hugging Face model directory."""
        ...


@dataclass(frozen=True, slots=True)
class Roles:
    """The roles of one run; None for a role that the run does not need."""

    learner: LearnerRole
    rollout: RolloutRole | None = None
    oracle: OracleRole | None = None
    reference: ReferenceRole | None = None
