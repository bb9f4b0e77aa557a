"""The driver's side of oracle replicas that ask the policy, over a stand-in for an actor's handle."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from actors.oracle.group import OracleGroup
from actors.oracle.services import PolicyQuery


class Method:
    """What Ray makes of an actor's method."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def options(self, **_: Any) -> Method:
        return self

    def remote(self, *arguments: Any) -> Any:
        return self._function(*arguments)


class Replica:
    """Compares as soon as the policy has answered its one query."""

    def __init__(self, deliver: Callable[..., Awaitable[None]] | None = None) -> None:
        self.answers: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.policy_queries = Method(self._queries)
        self.answer_policy_query = Method(deliver or self._deliver)
        self.compare = Method(self._compare)

    async def _queries(self) -> AsyncIterator[Awaitable[PolicyQuery]]:
        async def query() -> PolicyQuery:
            return PolicyQuery(0, ("one", "two"))  # type: ignore[arg-type]

        yield query()
        await asyncio.sleep(60)

    async def _deliver(self, key: int, failure: str | None, *rollouts: Any) -> None:
        self.answers.set_result((key, failure, rollouts))

    async def _compare(self, challenger: Any, defender: Any) -> Any:
        return await self.answers


def compare(policy: Callable[[Any], Awaitable[Any]], deliver: Callable[..., Awaitable[None]] | None = None) -> Any:
    async def run() -> Any:
        group = OracleGroup({"oracle-0": Replica(deliver)}, timeout_s=30.0, policy=policy)
        try:
            return await group.compare("challenger", "defender")
        finally:
            await group.close()

    return asyncio.run(run())


async def shouted(request: str) -> str:
    return request.upper()


async def refused(request: str) -> str:
    raise ValueError(f"no room for {request}")


async def lost(key: int, failure: str | None, *rollouts: Any) -> None:
    raise RuntimeError("a rollout was lost")


def test_the_policy_answers_queries() -> None:
    assert compare(shouted) == (0, None, ("ONE", "TWO"))


def test_the_oracle_is_told_why_the_policy_did_not_answer() -> None:
    assert compare(refused) == (0, "ValueError: no room for one", ())


def test_an_answer_that_cannot_be_delivered_is_the_first_cause_and_no_time_out() -> None:
    start = time.monotonic()
    with pytest.raises(RuntimeError, match="a rollout was lost"):
        compare(shouted, deliver=lost)
    assert time.monotonic() - start < 10
