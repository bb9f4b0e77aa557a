"""Frozen log-probs under pi_ref and pi_t, each in a slot of its own, and the driver's side of the replicas.

pi_ref is the policy as its directory holds it, without an adapter. pi_t arrives by the engines' transport: vLLM's receiving half loads
into a transformers model in place of an engine's. Either slot is absent when the loss does not need it. Weights of a version below 0
(a regulariser's) pass by: they are received, for a transfer may need every receiver, and discarded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from actors.calls import IN_FLIGHT, first_cause
from actors.policy import load_model, stored_buffers
from raypref import batching
from raypref.config import PolicyConfig
from raypref.errors import SyncError
from raypref.losses.base import Frozen
from raypref.roles import Checksums, Ref
from raypref.scoring import per_token_logps
from raypref.types import Example
from raypref.types import Sequence as Tokens


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
        self._previous = _Received(load_model(policy, place), place, transport) if "previous" in needs else None

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

    def probe(self, sequences: Sequence[Tokens]) -> list[NDArray[np.float64]] | None:
        """Per-token log-probs (T_s,) under pi_t; None without that slot."""
        return None if self._previous is None else per_token_logps(self._previous.model, sequences, self._micro_batch_tokens)

    def received(self) -> dict[str, int] | None:
        """Parameter name -> checksum of each tensor as it was last received; None without a slot for pi_t."""
        return None if self._previous is None else self._previous.weights.checksums()

    def init_weight_transfer_engine(self, request: Any) -> None:
        engine = self._slot().engine
        engine.init_transfer_engine(engine.parse_init_info(request.init_info))

    def start_weight_update(self, version: int = 0, complete: bool = True) -> None:
        self._slot().begin(keep=version >= 0, complete=complete)

    def update_weights(self, request: Any) -> None:
        self._slot().engine.update_weights(request.update_info)

    def finish_weight_update(self) -> None:
        """Raises ``SyncError`` when a parameter did not arrive."""
        self._slot().finish()

    def update_weight_version(self, new_version: str) -> None:
        if int(new_version) >= 0:
            self._slot().version = int(new_version)

    def shutdown(self) -> None:
        """Leave the transport."""
        if self._previous is not None:
            self._previous.engine.shutdown()

    def _slot(self) -> _Received:
        if self._previous is None:
            raise SyncError("sync: weights for a reference replica without a slot for pi_t; the loss does not need one")
        return self._previous

    def _sums(self, model: nn.Module, examples: Sequence[Example]) -> list[NDArray[np.float64]]:
        """For each example (S,) log-probs summed over response tokens."""
        rows = per_token_logps(model, batching.sequences(examples), self._micro_batch_tokens)
        sums = iter(row.sum() for row in rows)
        return [np.array([next(sums) for _ in example.response_ids]) for example in examples]


ReferenceActor = ReferenceModel
"""What the actor runs: calls come one at a time, so the plain class is all there is to it."""


class _Received:
    """pi_t: a transformers model that a transport loads into."""

    def __init__(self, model: nn.Module, device: torch.device, transport: str) -> None:
        from vllm.config import WeightTransferConfig
        from vllm.distributed.weight_transfer import WeightTransferEngineFactory

        from actors.receiving import ReceivedWeights

        self.model = model
        self.version: int | None = None
        """Which policy is held; None before the first sync and during one."""
        self._target = _Target(model)
        self.weights = ReceivedWeights(self._target)
        alone = SimpleNamespace(parallel_config=SimpleNamespace(data_parallel_index=0, world_size=1, rank=0), model_config=None)
        self.engine = WeightTransferEngineFactory.create_engine(WeightTransferConfig(backend=transport), alone, device, self._target)

    def begin(self, *, keep: bool, complete: bool) -> None:
        if keep:
            self.version = None
        self._target.keeps = keep
        if complete:
            self._target.arrived.clear()
        self.weights.begin(complete=complete)
        self.engine.start_weight_update()

    def finish(self) -> None:
        self.engine.finish_weight_update()
        self._target.check_complete()

    def check(self, example: Example) -> None:
        """Refuse an example that another policy sampled; given data (version -1) belongs to whatever pi_t is."""
        if self.version is None or example.policy_version not in (-1, self.version):
            raise SyncError(
                f"prompt {example.prompt_id!r} was sampled by policy version {example.policy_version}; the reference holds "
                f"{'no pi_t yet' if self.version is None else f'version {self.version}'}"
            )


class _Target(nn.Module):
    """Stands where vLLM expects an engine's model; has no parameters of its own, so that the layerwise reload finds nothing to do."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._own: dict[str, Tensor] = dict(model.named_parameters()) | stored_buffers(model)  # no submodule: vLLM must not see them
        self.arrived: set[str] = set()
        self.keeps = True
        """Whether what arrives replaces the model's own weights, or is discarded."""

    @torch.no_grad()
    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        for name, tensor in weights:
            if name not in self._own or self._own[name].shape != tensor.shape:
                raise SyncError(f"sync: {name} {tuple(tensor.shape)} is no parameter of the reference model")
            if self.keeps:
                self._own[name].copy_(tensor)
            self.arrived.add(name)

    def check_complete(self) -> None:
        if missing := sorted(self._own.keys() - self.arrived):
            raise SyncError(f"sync: {len(missing)} of {len(self._own)} parameters did not arrive, {missing[0]} the first")


@dataclass(slots=True)
class _Replica:
    name: str
    handle: Any
    load: int = 0
    """Calls given or waiting to be."""
    turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(IN_FLIGHT))


class ReferenceGroup:
    """``raypref.roles.ReferenceRole`` over several replicas."""

    def __init__(self, replicas: Sequence[tuple[str, Any]], timeout_s: float) -> None:
        """
        Args:
            replicas: name and handle of each ``ReferenceActor``.
            timeout_s: longest wait for any answer, from when the replica is asked.
        """
        self._replicas = [_Replica(name, handle) for name, handle in replicas]
        self._timeout_s = timeout_s

    async def score(self, examples: Ref) -> Ref:
        replica = min(self._replicas, key=lambda replica: replica.load)
        replica.load += 1
        try:
            async with replica.turns:
                done, scored = replica.handle.score_apart.options(num_returns=2).remote(examples)
                await first_cause([done], [f"{replica.name}: score"], self._timeout_s)
        finally:
            replica.load -= 1
        return scored

    async def refresh(self, directory: Path) -> None:
        await self._ask("refresh", directory)

    async def probe(self, sequences: Sequence[Tokens]) -> Mapping[str, Sequence[NDArray[np.float64]]]:
        return await self._ask("probe", list(sequences))

    async def received(self) -> Mapping[str, Checksums]:
        return await self._ask("received")

    async def close(self) -> None:
        """Have every replica leave the transport."""
        await self._ask("shutdown")

    async def _ask(self, method: str, *arguments: Any) -> dict[str, Any]:
        """The method's answers by replica, without those that have none."""
        calls = [getattr(replica.handle, method).remote(*arguments) for replica in self._replicas]
        names = [f"{replica.name}: {method}" for replica in self._replicas]
        answers = await first_cause(calls, names, self._timeout_s)
        return {replica.name: answer for replica, answer in zip(self._replicas, answers, strict=True) if answer is not None}
