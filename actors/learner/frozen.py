"""pi_ref on the learner's ranks, for losses that compare whole next-token distributions, which are too large to send between actors.

Each rank holds a frozen copy (not sharded, even under ZeRO-3). With LoRA and a fixed reference, pi_ref is the policy with its adapter
switched off, which takes no memory.
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
    """pi_ref on the rank's device."""

    def __init__(self, policy: PolicyConfig, engine: Any, device: torch.device) -> None:
        """
        Args:
            policy: the directory, dtype and adapter of pi_ref.
            engine: DeepSpeed's engine around the policy that is trained.
            device: of the copy.
        """
        self._policy = policy
        self._engine = engine
        self._device = device
        self._copy: Any = None if policy.lora is not None else load_model(policy, device)

    def refresh(self, directory: Path) -> None:
        """Make the policy in ``directory`` pi_ref: a frozen copy from then on, with LoRA too."""
        self._copy = None
        self._copy = load_model(self._policy.model_copy(update={"path": str(directory)}), self._device)

    def predictions(self, sequences: Sequence[types.TokenSequence]) -> Predictions:
        """The inputs of its distributions at each response token, without a gradient. A collective under ZeRO-3 with LoRA."""
        import torch

        with torch.no_grad():
            if self._copy is not None:
                return response_predictions(self._copy, sequences)
            with evaluating(self._engine), self._engine.module.disable_adapter():
                return response_predictions(self._engine, sequences)


@contextlib.contextmanager
def evaluating(engine: Any) -> Iterator[None]:
    """Switch dropout off inside the block; blocks may be nested."""
    was_training = engine.module.training
    engine.eval()
    try:
        yield
    finally:
        engine.train(was_training)
