"""The driver's side of the oracle: one object for all replicas. It also forwards the oracles' queries to the policy's engines."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from actors.cluster.call_results import reported_once
from actors.cluster.calls import first_cause
from actors.oracle.services import PolicyQuery
from raypref.judging.config import JudgingConfig
from raypref.types import Comparison, PreferenceMatrix, SampleRequest, Verdict


class OracleGroup:
    """The oracle role over several replicas. Each call goes to the replica with the fewest calls in flight."""

    def __init__(
        self,
        handles: Mapping[str, Any],
        timeout_s: float,
        *,
        in_flight: int = JudgingConfig().groups,
        policy: Callable[[SampleRequest], Awaitable[Any]] | None = None,
    ) -> None:
        """
        Args:
            handles: name -> actor handle of an ``OracleActor``.
            timeout_s: longest wait for one call, in seconds, counted from when the replica gets it.
            in_flight: calls that one replica works on at a time.
            policy: samples from the policy for oracles that ask it; returns a reference to the rollout. None: the run has no engines.
        """
        self._handles = dict(handles)
        self._timeout_s = timeout_s
        self._load = dict.fromkeys(self._handles, 0)
        """Calls that each replica works on or that wait for it."""
        self._slots = {name: asyncio.Semaphore(in_flight) for name in self._handles}
        self._policy = policy
        self._forwarders: set[asyncio.Task[None]] = set()
        """One task per replica; it forwards the replica's queries to the policy."""

    async def judge(self, rollout: Any, partner: Any = None) -> tuple[Verdict, Any]:
        """Verdict on the group, and a reference to its tuple of ``Example``."""
        async with self._replica() as (name, handle):
            verdict, examples = handle.judge.options(num_returns=2).remote(rollout, partner)
            with reported_once(examples):
                return await self._wait(name, verdict, "judge"), examples

    async def compare(self, challenger: Any, defender: Any) -> Comparison:
        """Two policies' rollouts on the same held-out prompt, against each other."""
        async with self._replica() as (name, handle):
            comparison: Comparison = await self._wait(name, handle.compare.remote(challenger, defender), "compare")
            return comparison

    async def matrix(self, rollout: Any) -> PreferenceMatrix:
        """Every response of a rollout against every other."""
        async with self._replica() as (name, handle):
            matrix: PreferenceMatrix = await self._wait(name, handle.matrix.remote(rollout), "matrix")
            return matrix

    async def recall(self, request: SampleRequest) -> Any:
        """A reference to the recorded answer; every replica can read what was recorded."""
        async with self._replica() as (name, handle):
            done, rollout = handle.recall.options(num_returns=2).remote(request)
            with reported_once(rollout):
                await self._wait(name, done, "recall")
            return rollout

    async def seal(self, iteration: int) -> None:
        """Close the iteration's journal, every replica's part of it."""
        await asyncio.gather(*(self._wait(name, handle.seal.remote(iteration), "seal") for name, handle in self._handles.items()))

    async def close(self) -> None:
        """Stop forwarding queries to the policy."""
        for forwarder in self._forwarders:
            forwarder.cancel()
        await asyncio.gather(*self._forwarders, return_exceptions=True)

    @contextlib.asynccontextmanager
    async def _replica(self) -> AsyncIterator[tuple[str, Any]]:
        """The least busy replica, once it has a free slot."""
        if self._policy is not None and not self._forwarders:
            self._forwarders = {asyncio.ensure_future(self._forward_queries(handle)) for handle in self._handles.values()}
        name = min(self._load, key=self._load.__getitem__)
        self._load[name] += 1
        try:
            async with self._slots[name]:
                yield name, self._handles[name]
        finally:
            self._load[name] -= 1

    async def _wait(self, name: str, call: Awaitable[Any], what: str) -> Any:
        """The call's result or its error, within the time-out.

        Raises the error of a forwarder that ends first: the call may wait for an answer that only the forwarder could bring.
        """
        answer = asyncio.ensure_future(first_cause([call], [f"{name}: {what}"], self._timeout_s))
        try:
            await asyncio.wait([answer, *self._forwarders], return_when=asyncio.FIRST_COMPLETED)
            for forwarder in self._forwarders:
                if forwarder.done() and not answer.done():
                    forwarder.result()
            return (await answer)[0]
        finally:
            answer.cancel()

    async def _forward_queries(self, handle: Any) -> None:
        """Forward a replica's queries to the policy, several at a time. Ends with the first failure, or the actor's death."""
        try:
            async with asyncio.TaskGroup() as tasks:
                async for reference in handle.policy_queries.options(num_returns="streaming").remote():
                    tasks.create_task(self._answer(handle, await reference))
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None

    async def _answer(self, handle: Any, query: PolicyQuery) -> None:
        assert self._policy is not None
        try:
            rollouts = await asyncio.gather(*(self._policy(request) for request in query.requests))
        except Exception as error:  # noqa: BLE001  # reported to the oracle, whose ask_policy raises it
            await handle.answer_policy_query.remote(query.key, f"{type(error).__name__}: {error}")
            return
        await handle.answer_policy_query.remote(query.key, None, *rollouts)
