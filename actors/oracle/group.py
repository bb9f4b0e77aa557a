"""The driver's side of the oracle replicas: one object for all of them, and the way of their requests to the policy."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from actors.cluster.calls import first_cause
from actors.oracle.host import Errand
from raypref.judging.config import JudgingConfig
from raypref.types import Comparison, PreferenceMatrix, SampleRequest, Verdict


class OracleGroup:
    """The oracle role over several replicas; each call goes to the one with the fewest in flight."""

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
            timeout_s: longest wait for one call, from when the replica is given it.
            in_flight: calls that a replica is given at a time.
            policy: answers an oracle that asks the policy; references to rollouts.
        """
        self._handles = dict(handles)
        self._timeout_s = timeout_s
        self._load = dict.fromkeys(self._handles, 0)
        """Calls given or waiting to be."""
        self._turns = {name: asyncio.Semaphore(in_flight) for name in self._handles}
        self._policy = policy
        self._servants: set[asyncio.Task[None]] = set()
        """What brings errands to the policy."""

    async def judge(self, rollout: Any, partner: Any = None) -> tuple[Verdict, Any]:
        """Verdict on the group, and a reference to its tuple of ``Example``."""
        async with self._turn() as (name, handle):
            verdict, examples = handle.judge.options(num_returns=2).remote(rollout, partner)
            return await self._wait(name, verdict, "judge"), examples

    async def compare(self, challenger: Any, defender: Any) -> Comparison:
        """Two policies' rollouts on the same held-out prompt, against each other."""
        async with self._turn() as (name, handle):
            found: Comparison = await self._wait(name, handle.compare.remote(challenger, defender), "compare")
            return found

    async def matrix(self, rollout: Any) -> PreferenceMatrix:
        """Every response of a rollout against every other."""
        async with self._turn() as (name, handle):
            found: PreferenceMatrix = await self._wait(name, handle.matrix.remote(rollout), "matrix")
            return found

    async def seal(self, iteration: int) -> None:
        """Close the iteration's journal, every replica's part of it."""
        await asyncio.gather(*(self._wait(name, handle.seal.remote(iteration), "seal") for name, handle in self._handles.items()))

    async def close(self) -> None:
        """Run no more errands."""
        for servant in self._servants:
            servant.cancel()
        await asyncio.gather(*self._servants, return_exceptions=True)

    @contextlib.asynccontextmanager
    async def _turn(self) -> AsyncIterator[tuple[str, Any]]:
        """The least busy replica, once it has room for a call."""
        if self._policy is not None and not self._servants:
            self._servants = {asyncio.ensure_future(self._serve(handle)) for handle in self._handles.values()}
        name = min(self._load, key=self._load.__getitem__)
        self._load[name] += 1
        try:
            async with self._turns[name]:
                yield name, self._handles[name]
        finally:
            self._load[name] -= 1

    async def _wait(self, name: str, call: Awaitable[Any], what: str) -> Any:
        """The call's result, or its own error, within the time-out; or what ended the service of errands, which the call may wait for."""
        answer = asyncio.ensure_future(first_cause([call], [f"{name}: {what}"], self._timeout_s))
        try:
            await asyncio.wait([answer, *self._servants], return_when=asyncio.FIRST_COMPLETED)
            for servant in self._servants:
                if servant.done() and not answer.done():
                    servant.result()
            return (await answer)[0]
        finally:
            answer.cancel()

    async def _serve(self, handle: Any) -> None:
        """Bring a replica's errands to the policy, several at a time. Ends with the first failure, or the actor's death."""
        try:
            async with asyncio.TaskGroup() as errands:
                async for reference in handle.errands.options(num_returns="streaming").remote():
                    errands.create_task(self._run_errand(handle, await reference))
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None

    async def _run_errand(self, handle: Any, errand: Errand) -> None:
        assert self._policy is not None
        try:
            rollouts = await asyncio.gather(*(self._policy(request) for request in errand.requests))
        except Exception as error:  # noqa: BLE001  # the oracle that waits raises it, and the group's judgement fails of it
            await handle.deliver.remote(errand.key, f"{type(error).__name__}: {error}")
            return
        await handle.deliver.remote(errand.key, None, *rollouts)
