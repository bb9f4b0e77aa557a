"""One reference replica: computes log-probs under pi_ref and pi_t.

pi_ref is the policy as its directory holds it, without an adapter; pi_t arrives by weight sync. Each has a slot, which is empty when the
loss does not need it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from actors.cluster.shared_files import model_appears
from actors.policy_model import load_model
from actors.reference.spread import load_spread
from actors.weights.received_policy import ReceivedPolicy
from raypref.errors import SyncError
from raypref.losses.base import Frozen
from raypref.output.frozen_scores import FrozenScores, key_of
from raypref.output.manifest import content_hash
from raypref.roles import Audience
from raypref.sections import PolicyConfig
from raypref.training import collation
from raypref.training.logprobs import per_token_logps
from raypref.types import Example, TokenSequence


class ReferenceActor:
    """The slots ``reference`` and ``previous`` of one replica. A plain class: Ray calls it one call at a time."""

    def __init__(
        self,
        policy: PolicyConfig,
        needs: Collection[Frozen],
        micro_batch_tokens: int,
        device: str = "cpu",
        transport: str = "shm",
        gpus: int = 1,
        scores: tuple[Path, str] | None = None,
    ) -> None:
        """
        Args:
            policy: the model, for both slots.
            needs: which slots are filled (``Loss.needs``).
            micro_batch_tokens: tokens of one forward pass, padding included.
            device: ``cpu`` or ``cuda``.
            transport: how pi_t arrives, a name of ``actors.weights.transport``.
            gpus: over which the blocks of each model are divided; the weights of a sync arrive on the first.
            scores: the run's journal, and this replica's name: scores of sampled groups are kept there (``FrozenScores``). None: nowhere.

        Raises:
            ConfigError: the policy cannot be loaded.
        """
        self._policy = policy
        self._scores = None if scores is None else FrozenScores(*scores)
        self._refreshed = ""
        """A hash of the files that pi_ref was refreshed from."""
        self._devices = [torch.device(device, k) if device == "cuda" else torch.device(device) for k in range(gpus)]
        self._micro_batch_tokens = micro_batch_tokens
        self._reference = self._load(policy) if "reference" in needs else None
        self._previous = ReceivedPolicy(self._load(policy), self._devices[0], transport) if "previous" in needs else None

    def score(self, examples: Sequence[Example]) -> tuple[Example, ...]:
        """The examples with the log-probs of every slot that is filled; those of a group that has been scored are read back.

        Raises:
            SyncError: an example was sampled by another policy than the one that is held as pi_t.
        """
        return self.score_apart(examples)[1]

    def score_apart(self, examples: Sequence[Example]) -> tuple[bool, tuple[Example, ...]]:
        """Whether the log-probs were computed, and what ``score`` returns: two objects, so that a caller can await the first without
        fetching the second."""
        if self._previous is not None:
            for example in examples:
                self._previous.check(example)
        key = None if self._scores is None else key_of(examples, self._identity())
        if self._scores is None or key is None:
            return True, self._computed(examples)
        if (found := self._scores.find(key, examples)) is not None:
            return False, found
        scored = self._computed(examples)
        self._scores.add(key, scored)
        return True, scored

    def seal(self, iteration: int) -> None:
        """The scores of the iterations so far are needed until the next two checkpoints are complete."""
        if self._scores is not None:
            self._scores.seal(iteration)

    def _computed(self, examples: Sequence[Example]) -> tuple[Example, ...]:
        scored = list(examples)
        if self._reference is not None:
            sums = self._response_logps(self._reference, scored)
            scored = [replace(example, reference_logps=logps) for example, logps in zip(scored, sums, strict=True)]
        if self._previous is not None:
            sums = self._response_logps(self._previous.model, scored)
            scored = [replace(example, previous_logps=logps) for example, logps in zip(scored, sums, strict=True)]
        return tuple(scored)

    def _identity(self) -> str:
        """What identifies the policies in the slots. The settings of a run, the policy's path among them, stay the same."""
        reference = "" if self._reference is None else f"pi_ref {self._refreshed}"
        return reference if self._previous is None else f"{reference} pi_t {self._previous.identity()}"

    def refresh(self, directory: Path) -> None:
        """Load the policy in ``directory`` as pi_ref; nothing happens where that slot is empty."""
        if self._reference is not None:
            self._reference = None  # so that memory never holds both
            model_appears(directory)
            self._refreshed = content_hash(directory)
            self._reference = self._load(self._policy.model_copy(update={"path": str(directory)}))

    def probe(self, sequences: Sequence[TokenSequence]) -> list[NDArray[np.float64]] | None:
        """Per-token log-probs (T_s,) under pi_t; None where that slot is empty."""
        return None if self._previous is None else per_token_logps(self._previous.model, sequences, self._micro_batch_tokens)

    def weight_checksums(self) -> dict[str, int] | None:
        """Parameter name -> checksum of each tensor as it was last received; None where the slot for pi_t is empty."""
        return None if self._previous is None else self._previous.checksums.values()

    # --- weight sync: the methods of ``actors.weights.destination.Destination`` -----------------------------------------------------

    def init_weight_transfer_engine(self, request: Mapping[str, Any]) -> None:
        self._received().receiver.connect(request["init_info"])

    def start_weight_update(self, complete: bool = True, audience: Audience = "all") -> None:
        self._received().begin(audience, complete)

    def update_weights(self, request: Mapping[str, Any]) -> None:
        self._received().receiver.update(request["update_info"])

    def finish_weight_update(self) -> None:
        """The sync has ended. Raises ``SyncError`` when a parameter did not arrive."""
        self._received().finish()

    def update_weight_version(self, new_version: str) -> None:
        self._received().take_version(int(new_version))

    def shutdown(self) -> None:
        """Free the transport's buffers and leave its process groups; end the file of scores."""
        if self._scores is not None:
            self._scores.close()
        if self._previous is not None:
            self._previous.receiver.close()

    def _load(self, policy: PolicyConfig) -> Any:
        return load_model(policy, self._devices[0]) if len(self._devices) == 1 else load_spread(policy, self._devices)

    def _received(self) -> ReceivedPolicy:
        if self._previous is None:
            raise SyncError("sync: weights for a reference replica without a slot for pi_t; the loss does not need one")
        return self._previous

    def _response_logps(self, model: nn.Module, examples: Sequence[Example]) -> list[NDArray[np.float64]]:
        """For each example (S,): the log-prob of each of its S responses, in nats, summed over response tokens."""
        rows = per_token_logps(model, collation.sequences(examples), self._micro_batch_tokens)
        sums = iter(row.sum() for row in rows)
        return [np.array([next(sums) for _ in example.response_ids]) for example in examples]
