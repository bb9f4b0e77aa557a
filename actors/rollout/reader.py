"""Reads the stream of an engine: which request each of its items answers."""

from __future__ import annotations

import collections
from collections.abc import AsyncIterator, Awaitable
from typing import Any

from actors.cluster.calls import first_cause
from actors.rollout.actor import Finished
from raypref.types import Rollout

BACKPRESSURE_ITEMS = 64
"""Stream items that an engine may be ahead of the driver before it pauses."""


async def read(name: str, handle: Any, timeout_s: float) -> AsyncIterator[tuple[str, Awaitable[Rollout], Finished | None]]:
    """The key of each finished request, a reference to its rollout, unfetched, and the header, with the first request that it announced.

    The error that ends a stream comes in the place of its next item. So an item is a rollout as soon as another one follows.

    Args:
        name: of the engine.
        handle: of its ``RolloutActor``.
        timeout_s: longest wait for a header that has been announced, in seconds.

    Raises:
        ActorDied: the engine is gone.
        Exception: what ended the stream.
    """
    items = handle.stream.options(num_returns="streaming", _generator_backpressure_num_objects=BACKPRESSURE_ITEMS).remote()
    announced: collections.deque[str] = collections.deque()
    held: tuple[str, Any] | None = None
    """What is a rollout unless the stream has ended."""
    header: Finished | None = None
    """The last one, until it is given."""
    item = None
    async for item in items:
        if held is not None:
            yield (*held, header)
            header = None
        if announced:
            held = (announced.popleft(), item)
        elif held is not None:
            held = None  # this item is the end of the step
        else:
            (header,) = await first_cause([item], [f"{name}: stream"], timeout_s)
            assert header is not None
            announced.extend(header.keys)
    if item is not None:  # raises the error that ended the stream
        await first_cause([item], [f"{name}: stream"], timeout_s)
    raise RuntimeError(f"{name}: the stream ended")
