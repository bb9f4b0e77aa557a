"""The driver's side of the learner, with stand-ins for the handles of its ranks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import ObjectLostError

from actors.learner import group
from actors.learner.group import LearnerGroup
from actors.supervision.copies import Copies
from actors.weights.destination import Destination
from raypref.errors import ActorSilent, ObjectLost
from raypref.sections import SyncConfig
from tests.actors.test_supervision import Cluster, Method, run


class Rank:
    """Works on one call at a time, also when nobody waits for it any more."""

    def __init__(self, step: Callable[[], Awaitable[Any]]) -> None:
        self._one = asyncio.Lock()
        self.step = Method(lambda *_: self._begun(step))
        self.alive = Method(lambda: self._begun(lambda: asyncio.sleep(0, "here")))

    def _begun(self, work: Callable[[], Awaitable[Any]]) -> Awaitable[Any]:
        async def alone() -> Any:
            async with self._one:
                return await work()

        return asyncio.shield(asyncio.ensure_future(alone()))


async def unread() -> None:
    """What happens where the batch cannot be fetched."""
    raise ObjectLostError("0" * 56, None, "")


async def waits() -> None:
    """A collective that another rank does not reach."""
    await asyncio.sleep(60)


@pytest.mark.parametrize(("steps", "named"), [((unread,), ()), ((unread, unread), ()), ((unread, waits), ("learner-1",))])
def test_a_batch_that_is_lost_leaves_the_ranks_as_they_were_unless_one_waits_for_the_others(
    steps: tuple[Any, ...], named: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ranks that are not named can still save what they hold."""
    monkeypatch.setattr(group, "_IDLE_S", 0.1)
    monkeypatch.setattr("actors.cluster.calls._GRACE_S", 0.1)

    async def work() -> None:
        learner = LearnerGroup([Rank(step) for step in steps], 5.0)
        with pytest.raises(ObjectLost, match=r"^learner-\d: step: Ray's object store: ObjectLostError") as caught:
            await learner.step([])
        assert caught.value.actors == named

    run(work)


class Sender:
    """A rank that sends weights as fast as it is told to, and notes how long it may wait for the receivers."""

    def __init__(self) -> None:
        self.limits: list[tuple[bool, float]] = []
        self.hangs = False
        self.sync = Method(self._sync)
        for method in ("connect", "load"):
            setattr(self, method, Method(lambda *_: asyncio.sleep(0)))

    async def _sync(self, version: int, audience: str, complete: bool, limit_s: float) -> dict[str, int]:
        self.limits.append((complete, limit_s))
        await asyncio.sleep(60 if self.hangs else 0.01)
        return {"weight": 1}


def test_a_sync_that_hangs_is_noticed_by_what_syncs_usually_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten times 10 ms is below the floor of 0.3 s; ``sync.timeout_s`` limits the first syncs. The one after a connection or a load sends
    more than the others, so that their time says nothing of it. ``learner.timeout_s`` does not matter."""
    monkeypatch.setattr(group, "_LATER_S", 0.1)

    async def work() -> None:
        cluster = Cluster("rollout-0", floor_s=0.3, ceiling_s=40.0)
        copies, sender = Copies([Destination("rollout-0", cluster.actors["rollout-0"])]), Sender()
        learner = LearnerGroup([sender], 40.0, None, cluster.supervisor, copies)
        await learner.connect(await copies.present(), SyncConfig(timeout_s=50.0))
        for version in range(5):
            await learner.sync(version)
        await learner.load(Path("checkpoint"))
        await learner.sync(5)
        assert sender.limits == [(True, 50.0), *[(False, 50.0)] * 3, (False, 0.3), (True, 50.0)]
        sender.hangs, began = True, time.monotonic()
        with pytest.raises(ActorSilent, match=r"no answer within 0\.4 s from learner-0: sync"):
            await learner.sync(6)
        assert time.monotonic() - began < 5

    run(work)


def test_a_step_that_waits_for_the_copy_of_a_checkpoint_does_not_count_as_hung() -> None:
    """The usual steps do not tell how long a copy takes; their own limit stays."""

    async def work() -> None:
        cluster, waits = Cluster("rollout-0", floor_s=0.2, ceiling_s=5.0), {"s": 0.0}
        rank = Rank(lambda: asyncio.sleep(waits["s"], {}))
        rank.__dict__["save"] = Method(lambda *_: asyncio.sleep(0))
        learner = LearnerGroup([rank], 5.0, None, cluster.supervisor)
        for _ in range(4):
            await learner.step([])
        await learner.save(Path("checkpoint"))
        waits["s"] = 0.6
        await learner.step([])
        with pytest.raises(ActorSilent, match=r"no answer within 0\.2 s from learner-0: step"):
            await learner.step([])

    run(work)


def test_a_copy_that_returns_while_a_sync_looks_at_the_others_is_connected_with_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would count as holding weights that nobody sent it."""

    async def work() -> None:
        cluster, sender = Cluster("rollout-0", "rollout-1"), Sender()
        connected: list[list[str]] = []
        copies = Copies([Destination(name, cluster.actors[name]) for name in ("rollout-0", "rollout-1")])
        look = copies.any_lost

        async def returns(present: Any, limit_s: float) -> bool:
            if "rollout-1" not in {copy.name for copy in present}:
                copies.replaced("rollout-1", cluster.actors["rollout-1"])
            return await look(present, limit_s)

        async def connect(present: list[Destination], *_: Any) -> None:
            connected.append([copy.name for copy in present])

        monkeypatch.setattr(copies, "any_lost", returns)
        sender.__dict__["connect"] = Method(connect)
        learner = LearnerGroup([sender], 5.0, None, cluster.supervisor, copies)
        copies.lose("rollout-1")
        await learner.sync(1)
        assert copies.is_behind("rollout-1")
        await learner.sync(2)
        assert connected == [["rollout-0"], ["rollout-0", "rollout-1"]]
        assert not copies.is_behind("rollout-1")

    run(work)
