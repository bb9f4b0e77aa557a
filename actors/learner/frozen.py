"""pi_ref beside the policy that is trained: whole next-token distributions, which are too large to travel.

A frozen copy on every rank (not sharded, ZeRO-3 notwithstanding), or, with LoRA and a fixed reference, the policy with its adapter
switched off, which costs no memory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.policy_model import load_model
from raypref import types
from raypref.sections import PolicyConfig
from raypref.training.logprobs import Predictions, response_predictions

if TYPE_CHECKING:
    import torch


class FrozenPolicy:
    """pi_ref on the learner's device."""

    def __init__(self, policy: PolicyConfig, engine: Any, device: torch.device) -> None:
        """
        Args:
            policy: pi_ref's directory, dtype and adapter.
            engine: DeepSpeed's, around the policy that is trained.
            device: where the copy goes.
        """
        self._policy = policy
        self._engine = engine
        self._device = device
        self._copy: Any = None if policy.lora is not None else load_model(policy, device)

    def refresh(self, directory: Path) -> None:
        """Become the policy in ``directory``; with LoRA too a copy from then on."""
        self._copy = None
        self._copy = load_model(self._policy.model_copy(update={"path": str(directory)}), self._device)

    def predictions(self, sequences: Sequence[types.TokenSequence]) -> Predictions:
        """What its distributions at each response token are made from, without a gradient. A collective under ZeRO-3 with LoRA."""
        import torch

        with torch.no_grad():
            if self._copy is not None:
                return response_predictions(self._copy, sequences)
            with evaluating(self._engine), self._engine.module.disable_adapter():
                return response_predictions(self._engine, sequences)


@contextlib.contextmanager
def evaluating(engine: Any) -> Iterator[None]:
    """The engine without dropout, for the time of the block."""
    engine.eval()
    try:
        yield
    finally:
        engine.train()
