"""pi_ref on the learner's ranks, for losses that compare whole next-token distributions, which are too large to send between actors.

Each rank holds a frozen copy, under ZeRO-3 its share of one. With LoRA and a fixed reference, pi_ref is the policy with its adapter
switched off, which takes no memory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.cluster.shared_files import model_appears
from actors.learner.deepspeed_setup import build_frozen_engine
from actors.learner.partitioned import load_partitioned
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
            engine: DeepSpeed's engine around the policy that is trained. At ZeRO stage 3 the copy is partitioned, too.
            device: of the copy.
        """
        self._policy = policy
        self._engine = engine
        self._device = device
        self._partitioned = engine.zero_optimization_stage() == 3
        self._copy: Any = None
        self._head: torch.nn.Linear | None = None
        """Of a partitioned copy, whole: the divergence reads its weight outside of the copy's forward pass, in the backward pass, too."""
        if policy.lora is None:
            self._load(policy)

    def refresh(self, directory: Path) -> None:
        """Make the policy in ``directory`` pi_ref: a frozen copy from then on, with LoRA too. All ranks must call it at the same time."""
        if self._partitioned and self._copy is not None:
            self._copy.destroy()
        self._copy = self._head = None
        model_appears(directory)
        self._load(self._policy.model_copy(update={"path": str(directory)}))

    def _load(self, policy: PolicyConfig) -> None:
        if not self._partitioned:
            self._copy = load_model(policy, self._device)
            return
        model = load_partitioned(policy, self._device)
        self._head = _whole(model.get_output_embeddings())
        self._copy = build_frozen_engine(model, policy, self._engine.world_size)

    def predictions(self, sequences: Sequence[types.TokenSequence]) -> Predictions:
        """The inputs of its distributions at each response token, without a gradient. A collective under ZeRO-3."""
        import torch

        with torch.no_grad():
            if self._copy is None:
                with evaluating(self._engine), self._engine.module.disable_adapter():
                    return response_predictions(self._engine, sequences)
            found = response_predictions(self._copy, sequences)
        return found if found.head is None or self._head is None else replace(found, head=self._head)


def _whole(head: torch.nn.Linear) -> torch.nn.Linear:
    """A head of its own with the values of a partitioned one."""
    import deepspeed
    import torch

    own = torch.nn.Linear(head.in_features, head.out_features, device="meta")
    with deepspeed.zero.GatheredParameters(list(head.parameters()), modifier_rank=None):
        own.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=False)
        own.bias = None if head.bias is None else torch.nn.Parameter(head.bias.detach().clone(), requires_grad=False)
    return own


@contextlib.contextmanager
def evaluating(engine: Any) -> Iterator[None]:
    """Switch dropout off inside the block; blocks may be nested."""
    was_training = engine.module.training
    engine.eval()
    try:
        yield
    finally:
        engine.train(was_training)
