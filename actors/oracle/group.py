"""The driver's side of the oracle: one object for all replicas. It also forwards the oracles' queries to the policy's engines."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from actors.cluster.call_results import reported_once, result
from actors.cluster.calls import first_cause
from actors.oracle.services import PolicyQuery
from actors.supervision.members import Member, Members
from actors.supervision.replicas import Replicas
from actors.supervision.supervisor import Supervisor
from raypref.judging.config import JudgingConfig
from raypref.types import Comparison, PreferenceMatrix, SampleRequest, Verdict


class OracleGroup:
    """The oracle role over several replicas. Each call goes to the replica with the fewest calls in flight.

    A replica that is lost is replaced, and the other ones do its work meanwhile. What an oracle raises is raised: another replica would
    raise the same.
    """

    def __init__(
        self,
        handles: Mapping[str, Any],
        timeout_s: float,
        *,
        in_flight: int = JudgingConfig().groups,
        policy: Callable[[SampleRequest], Awaitable[Any]] | None = None,
        supervisor: Supervisor | None = None,
        waits_for_others: bool = False,
    ) -> None:
        """
        Args:
            handles: name -> actor handle of an ``OracleActor``.
            timeout_s: longest wait for one call, in seconds, counted from when the replica gets it.
            in_flight: calls that one replica works on at a time.
            policy: samples from the policy for oracles that ask it; returns a reference to the rollout. None: the run has no engines.
            supervisor: of the run; default: nothing is replaced.
            waits_for_others: whether ``timeout_s`` is the only limit of a call (``Oracle.waits_for_others``).
        """
        self._supervisor = supervisor or Supervisor.without_restarts(timeout_s)
        self.members = Members(list(handles.items()), self._supervisor)
        self._replicas = Replicas(self.members, in_flight)
        self._timeout_s = timeout_s
        self._waits_for_others = waits_for_others
        self._policy = policy
        self._forwarders: dict[Any, asyncio.Task[None]] = {}
        """One task per replica; it forwards the replica's queries to the policy."""
        self.members.on_down = lambda member, error: self._stop_forwarding(member.handle)

    async def judge(self, rollout: Any, partner: Any = None) -> tuple[Verdict, Any]:
        """Verdict on the group, and a reference to its tuple of ``Example``."""
        asked: list[str | None] = [None]

        async def ask(member: Member) -> tuple[Verdict, Any]:
            verdict, examples = member.handle.judge.options(num_returns=2).remote(rollout, partner, asked[-1])
            asked.append(member.name)
            with reported_once(examples):
                return await self._wait(member, verdict, "judge"), examples

        judged: tuple[Verdict, Any] = await self._replicas.call("oracle: judge", ask, computed=lambda answer: not answer[0].recorded)
        return judged

    async def compare(self, challenger: Any, defender: Any) -> Comparison:
        """Two policies' rollouts on the same held-out prompt, against each other."""
        comparison: Comparison = await self._replicas.call(
            "oracle: compare", lambda member: self._wait(member, member.handle.compare.remote(challenger, defender), "compare")
        )
        return comparison

    async def matrix(self, rollout: Any) -> PreferenceMatrix:
        """Every response of a rollout against every other."""
        matrix: PreferenceMatrix = await self._replicas.call(
            "oracle: matrix", lambda member: self._wait(member, member.handle.matrix.remote(rollout), "matrix")
        )
        return matrix

    async def recall(self, request: SampleRequest) -> Any:
        """A reference to the recorded answer; every replica can read what was recorded."""

        async def ask(member: Member) -> Any:
            done, rollout = member.handle.recall.options(num_returns=2).remote(request)
            with reported_once(rollout):
                await self._wait(member, done, "recall")
            return rollout

        return await self._replicas.call("oracle: recall", ask)

    async def seal(self, iteration: int) -> None:
        """Close the iteration's journal, every replica's part of it. The replacement of a lost replica closes that one's part."""
        members = await self.members.all_up()
        await self._replicas.each(lambda member: self._wait(member, member.handle.seal.remote(iteration), "seal"), members, needed=True)

    async def close(self) -> None:
        """Stop forwarding queries to the policy."""
        await self.members.close()
        forwarders = list(self._forwarders.values())
        for forwarder in forwarders:
            forwarder.cancel()
        await asyncio.gather(*forwarders, return_exceptions=True)

    def _limit(self, what: str) -> float | Callable[[], float]:
        return self._timeout_s if self._waits_for_others or what == "seal" else self._supervisor.times.limit_of(f"oracle: {what}")

    async def _wait(self, member: Member, call: Awaitable[Any], what: str) -> Any:
        """The call's result or its error, within the time-out.

        Raises the error of the replica's forwarder that ends first: the call may wait for an answer that only the forwarder could bring.
        """
        answer = asyncio.ensure_future(first_cause([call], [f"{member.name}: {what}"], self._limit(what)))
        try:
            if (forwarder := self._forwarder(member)) is not None:
                await asyncio.wait([answer, forwarder], return_when=asyncio.FIRST_COMPLETED)
                if not (answer.done() or forwarder.cancelled()):  # cancelled: the replica is lost, and the call ends with that
                    forwarder.result()
            return (await answer)[0]
        finally:
            answer.cancel()

    def _forwarder(self, member: Member) -> asyncio.Task[None] | None:
        """The task that forwards the queries of a replica; None where the run has no engines."""
        if self._policy is None:
            return None
        if member.handle not in self._forwarders:
            self._forwarders[member.handle] = asyncio.ensure_future(self._forward_queries(member.name, member.handle))
        return self._forwarders[member.handle]

    def _stop_forwarding(self, handle: Any) -> None:
        if (forwarder := self._forwarders.pop(handle, None)) is not None:
            forwarder.cancel()

    async def _forward_queries(self, name: str, handle: Any) -> None:
        """Forward a replica's queries to the policy, several at a time. Ends with the first failure, or the actor's death."""
        try:
            async with asyncio.TaskGroup() as tasks:
                async for reference in handle.policy_queries.options(num_returns="streaming").remote():
                    tasks.create_task(self._answer(name, handle, await result(reference, name)))
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None

    async def _answer(self, name: str, handle: Any, query: PolicyQuery) -> None:
        assert self._policy is not None
        try:
            rollouts = await asyncio.gather(*(self._policy(request) for request in query.requests))
        except Exception as error:  # noqa: BLE001  # reported to the oracle, whose ask_policy raises it
            await result(handle.answer_policy_query.remote(query.key, f"{type(error).__name__}: {error}"), name)
            return
        await result(handle.answer_policy_query.remote(query.key, None, *rollouts), name)
