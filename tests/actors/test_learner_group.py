"""The driver's side of the learner, with stand-ins for the handles of its ranks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from ray.exceptions import ObjectLostError

from actors.learner import group
from actors.learner.group import LearnerGroup
from raypref.errors import ObjectLost
from tests.actors.test_supervision import Method, run


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
        with pytest.raises(ObjectLost, match="^learner-0: step: Ray's object store: ObjectLostError") as caught:
            await learner.step([])
        assert caught.value.actors == named

    run(work)
