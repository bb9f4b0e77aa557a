"""The driver's side of the reference replicas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.cluster.call_results import reported_once
from actors.cluster.calls import IN_FLIGHT, first_cause
from actors.supervision.copies import Copies
from actors.supervision.members import Member, Members
from actors.supervision.replicas import Replicas
from actors.supervision.supervisor import Supervisor
from raypref.roles import Checksums
from raypref.types import ExamplesRef, TokenSequence


class ReferenceGroup:
    """``raypref.roles.ReferenceRole`` over several replicas. One that is lost is replaced; the others do its work meanwhile."""

    def __init__(
        self, replicas: Sequence[tuple[str, Any]], timeout_s: float, supervisor: Supervisor | None = None, copies: Copies | None = None
    ) -> None:
        """
        Args:
            replicas: name and handle of each ``ReferenceActor``.
            timeout_s: longest wait for any answer, in seconds, counted from when the replica is given the call.
            supervisor: of the run; default: nothing is replaced.
            copies: where the replicas may hold pi_t.
        """
        self._supervisor = supervisor or Supervisor.without_restarts(timeout_s)
        self.members = Members(replicas, self._supervisor, copies=copies, prepare=self._prepare)
        self._replicas = Replicas(self.members, IN_FLIGHT)
        self._timeout_s = timeout_s
        self._refreshed: Path | None = None
        """Where pi_ref is, if it is not the policy that the run started from."""

    async def score(self, examples: ExamplesRef) -> ExamplesRef:
        async def ask(member: Member) -> tuple[bool, ExamplesRef]:
            computed, scored = member.handle.score_apart.options(num_returns=2).remote(examples)
            with reported_once(scored):
                limit = self._supervisor.times.limit_of("reference: score")
                return (await first_cause([computed], [f"{member.name}: score"], limit))[0], scored

        return (await self._replicas.call("reference: score", ask, computed=lambda answer: bool(answer[0])))[1]

    async def refresh(self, directory: Path) -> None:
        self._refreshed = directory
        await self._ask(self.members.up, "refresh", directory)

    async def seal(self, iteration: int) -> None:
        """A replica that is lost meanwhile, or replaced later, seals its part the next time."""
        await self._ask(self.members.up, "seal", iteration)

    async def probe(self, sequences: Sequence[TokenSequence]) -> Mapping[str, Sequence[NDArray[np.float64]]]:
        return await self._ask_some("probe", list(sequences))

    async def weight_checksums(self) -> Mapping[str, Checksums]:
        return await self._ask_some("weight_checksums")

    async def close(self) -> None:
        """Let every replica free its transport's buffers."""
        await self.members.close()
        await self._ask(self.members.started, "shutdown")

    async def _ask_some(self, method: str, *arguments: Any) -> dict[str, Any]:
        """The answers of the replicas that are up, without those that are lost meanwhile and those that answer None."""
        answers: dict[str, Any] = {}
        while not answers:
            answers = await self._ask(await self.members.some_up(), method, *arguments)
        return {name: answer for name, answer in answers.items() if answer is not None}

    async def _ask(self, members: Sequence[Member], method: str, *arguments: Any) -> dict[str, Any]:
        async def ask(member: Member) -> Any:
            call = getattr(member.handle, method).remote(*arguments)
            return (await first_cause([call], [f"{member.name}: {method}"], self._timeout_s))[0]

        return await self._replicas.each(ask, members)

    async def _prepare(self, name: str, handle: Any) -> None:
        """Have a replacement load the pi_ref that the others hold, also if it changes meanwhile."""
        loaded = None
        while (directory := self._refreshed) != loaded:
            await first_cause([handle.refresh.remote(directory)], [f"{name}: refresh"], self._timeout_s)
            loaded = directory
