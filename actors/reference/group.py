"""The driver's side of the reference replicas."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.cluster.call_results import reported_once
from actors.cluster.calls import IN_FLIGHT, first_cause
from raypref.roles import Checksums
from raypref.types import ExamplesRef, TokenSequence


@dataclass(slots=True)
class _Replica:
    name: str
    handle: Any
    load: int = 0
    """Calls that the replica works on, or that wait for it."""
    free: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(IN_FLIGHT))
    """Calls that may still be given to it."""


class ReferenceGroup:
    """``raypref.roles.ReferenceRole`` over several replicas."""

    def __init__(self, replicas: Sequence[tuple[str, Any]], timeout_s: float) -> None:
        """
        Args:
            replicas: name and handle of each ``ReferenceActor``.
            timeout_s: longest wait for any answer, in seconds, counted from when the replica is given the call.
        """
        self._replicas = [_Replica(name, handle) for name, handle in replicas]
        self._timeout_s = timeout_s

    async def score(self, examples: ExamplesRef) -> ExamplesRef:
        replica = min(self._replicas, key=lambda replica: replica.load)
        replica.load += 1
        try:
            async with replica.free:
                done, scored = replica.handle.score_apart.options(num_returns=2).remote(examples)
                with reported_once(scored):
                    await first_cause([done], [f"{replica.name}: score"], self._timeout_s)
        finally:
            replica.load -= 1
        return scored

    async def refresh(self, directory: Path) -> None:
        await self._ask("refresh", directory)

    async def probe(self, sequences: Sequence[TokenSequence]) -> Mapping[str, Sequence[NDArray[np.float64]]]:
        return await self._ask("probe", list(sequences))

    async def weight_checksums(self) -> Mapping[str, Checksums]:
        return await self._ask("weight_checksums")

    async def close(self) -> None:
        """Let every replica free its transport's buffers."""
        await self._ask("shutdown")

    async def _ask(self, method: str, *arguments: Any) -> dict[str, Any]:
        """Call the method on every replica: replica name -> answer, without the replicas that answer None."""
        calls = [getattr(replica.handle, method).remote(*arguments) for replica in self._replicas]
        names = [f"{replica.name}: {method}" for replica in self._replicas]
        answers = await first_cause(calls, names, self._timeout_s)
        return {replica.name: answer for replica, answer in zip(self._replicas, answers, strict=True) if answer is not None}
