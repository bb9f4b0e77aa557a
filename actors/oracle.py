"""Oracle actors: a judge and its journal behind Ray calls, and the driver's side of several of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Mapping
from pathlib import Path
from typing import Any

from actors.calls import IN_FLIGHT, first_cause
from raypref.config import RolloutConfig
from raypref.journal import Journal
from raypref.judging import Judge
from raypref.losses.base import Loss
from raypref.oracles.base import Oracle
from raypref.selection.base import Selection
from raypref.sequences import SequenceMaker
from raypref.types import Comparison, Example, Rollout, Verdict


class OracleActor:
    """One judge. Its methods run one at a time."""

    def __init__(
        self,
        *,
        oracle: Oracle,
        selection: Selection | None,
        loss: Loss,
        rollout: RolloutConfig,
        journal_dir: Path | str,
        name: str,
        sequences: SequenceMaker | None = None,
    ) -> None:
        """
        Args:
            oracle: loaded here.
            selection: what is asked, and which responses are kept.
            loss: makes the examples' targets.
            rollout: what becomes of responses that were cut off.
            journal_dir: the run's rollouts on disk.
            name: the actor's own; also that of its part of the journal.
            sequences: makes the examples.
        """
        self._judge = Judge(oracle, selection, loss, rollout, sequences)
        self._judge.load()
        self._journal = Journal(Path(journal_dir), name)

    def judge(self, rollout: Rollout, partner: Rollout | None = None) -> tuple[Verdict, tuple[Example, ...]]:
        """Judge a group and put it on disk. Called with ``num_returns=2``: the examples stay in the object store."""
        judged = self._judge.judge(rollout, partner)
        self._journal.append(rollout, judged)
        return judged.verdict, judged.examples

    def compare(self, challenger: Rollout, defender: Rollout) -> Comparison:
        """Two policies on one held-out prompt; nothing of it goes into the journal."""
        return self._judge.compare(challenger, defender)

    def seal(self, iteration: int) -> str | None:
        """Close the iteration's part of the journal; its path, if there is anything in it."""
        path = self._journal.seal(iteration)
        return None if path is None else str(path)


class OracleGroup:
    """The oracle role over several replicas; each call goes to the one with the fewest in flight."""

    def __init__(self, handles: Mapping[str, Any], timeout_s: float) -> None:
        """
        Args:
            handles: name -> actor handle of an ``OracleActor``.
            timeout_s: longest wait for one call, from when the replica is given it.
        """
        self._handles = dict(handles)
        self._timeout_s = timeout_s
        self._load = dict.fromkeys(self._handles, 0)
        """Calls given or waiting to be."""
        self._turns = {name: asyncio.Semaphore(IN_FLIGHT) for name in self._handles}

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

    async def seal(self, iteration: int) -> None:
        """Close the iteration's journal, every replica's part of it."""
        await asyncio.gather(*(self._wait(name, handle.seal.remote(iteration), "seal") for name, handle in self._handles.items()))

    @contextlib.asynccontextmanager
    async def _turn(self) -> AsyncIterator[tuple[str, Any]]:
        """The least busy replica, once it has room for a call."""
        name = min(self._load, key=self._load.__getitem__)
        self._load[name] += 1
        try:
            async with self._turns[name]:
                yield name, self._handles[name]
        finally:
            self._load[name] -= 1

    async def _wait(self, name: str, call: Awaitable[Any], what: str) -> Any:
        """The call's result, or its own error, within the time-out."""
        (result,) = await first_cause([call], [f"{name}: {what}"], self._timeout_s)
        return result
