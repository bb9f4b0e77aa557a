"""Frozen log-probs under pi_ref and pi_t, each in a slot of its own.

pi_ref is the policy as its directory holds it, without an adapter; pi_t arrives by weight sync. Either slot is absent when the loss does
not need it.
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

from actors.policy_model import load_model
from actors.weights.received_policy import ReceivedPolicy
from raypref.errors import SyncError
from raypref.losses.base import Frozen
from raypref.roles import Audience
from raypref.sections import PolicyConfig
from raypref.training import collation
from raypref.training.logprobs import per_token_logps
from raypref.types import Example, TokenSequence


class ReferenceModel:
    """The slots ``reference`` and ``previous`` of one replica."""

    def __init__(
        self, policy: PolicyConfig, needs: Collection[Frozen], micro_batch_tokens: int, device: str = "cpu", transport: str = "shm"
    ) -> None:
        """
        Args:
            policy: the model, for both slots.
            needs: which slots there are (``Loss.needs``).
            micro_batch_tokens: tokens of one forward pass, padding included.
            device: ``cpu`` or ``cuda``.
            transport: how pi_t comes: ``nccl``, ``ipc`` or ``shm``.

        Raises:
            ConfigError: the policy cannot be loaded.
        """
        place = torch.device(device, 0) if device == "cuda" else torch.device(device)
        self._policy, self._place = policy, place
        self._micro_batch_tokens = micro_batch_tokens
        self._reference = load_model(policy, place) if "reference" in needs else None
        self._previous = ReceivedPolicy(load_model(policy, place), place, transport) if "previous" in needs else None

    def score(self, examples: Sequence[Example]) -> tuple[Example, ...]:
        """The examples with the log-probs of every slot that there is.

        Raises:
            SyncError: an example was sampled by another policy than the one that is held as pi_t.
        """
        scored = list(examples)
        if self._reference is not None:
            sums = self._sums(self._reference, scored)
            scored = [replace(example, reference_logps=own) for example, own in zip(scored, sums, strict=True)]
        if self._previous is not None:
            for example in scored:
                self._previous.check(example)
            sums = self._sums(self._previous.model, scored)
            scored = [replace(example, previous_logps=own) for example, own in zip(scored, sums, strict=True)]
        return tuple(scored)

    def score_apart(self, examples: Sequence[Example]) -> tuple[None, tuple[Example, ...]]:
        """``score`` with two return values: the first tells that it is done to who leaves the second where it is."""
        return None, self.score(examples)

    def refresh(self, directory: Path) -> None:
        """The policy in ``directory`` is pi_ref from now on; nothing happens without that slot."""
        if self._reference is not None:
            self._reference = None  # never two of them in memory
            self._reference = load_model(self._policy.model_copy(update={"path": str(directory)}), self._place)

    def probe(self, sequences: Sequence[TokenSequence]) -> list[NDArray[np.float64]] | None:
        """Per-token log-probs (T_s,) under pi_t; None without that slot."""
        return None if self._previous is None else per_token_logps(self._previous.model, sequences, self._micro_batch_tokens)

    def weight_checksums(self) -> dict[str, int] | None:
        """Parameter name -> checksum of each tensor as it was last received; None without a slot for pi_t."""
        return None if self._previous is None else self._previous.checksums.values()

    def init_weight_transfer_engine(self, request: Mapping[str, Any]) -> None:
        self._slot().receiver.connect(request["init_info"])

    def start_weight_update(self, complete: bool = True, audience: Audience = "all") -> None:
        self._slot().begin(audience, complete)

    def update_weights(self, request: Mapping[str, Any]) -> None:
        self._slot().receiver.update(request["update_info"])

    def finish_weight_update(self) -> None:
        """Raises ``SyncError`` when a parameter did not arrive."""
        self._slot().finish()

    def update_weight_version(self, new_version: str) -> None:
        self._slot().take_version(int(new_version))

    def shutdown(self) -> None:
        """Leave the transport."""
        if self._previous is not None:
            self._previous.receiver.close()

    def _slot(self) -> ReceivedPolicy:
        if self._previous is None:
            raise SyncError("sync: weights for a reference replica without a slot for pi_t; the loss does not need one")
        return self._previous

    def _sums(self, model: nn.Module, examples: Sequence[Example]) -> list[NDArray[np.float64]]:
        """For each example (S,) log-probs summed over response tokens."""
        rows = per_token_logps(model, collation.sequences(examples), self._micro_batch_tokens)
        sums = iter(row.sum() for row in rows)
        return [np.array([next(sums) for _ in example.response_ids]) for example in examples]


ReferenceActor = ReferenceModel
"""What the actor runs: calls come one at a time, so the plain class is all there is to it."""
