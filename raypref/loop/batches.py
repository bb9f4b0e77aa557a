"""Prompts to full batches, in prompt order, at most a window ahead.

Groups are worked on concurrently and finish in any order; batches fill in the order of the prompts, from the groups that are kept. The
window is bounded by prompt index: the prompt that is due is always among those in flight, so a full window cannot block it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np

from raypref.types import Slice

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Batch:
    """One optimiser step's examples."""

    slices: tuple[Slice, ...]
    groups_taken: int
    """How many of the iteration's groups, dropped ones included, lie before the end of this batch."""

    @property
    def examples(self) -> int:
        return sum(part.stop - part.start for part in self.slices)


class BatchStream(Generic[T]):
    """Turns items (prompts) into batches by way of ``process``, which gives an item's examples.

        stream = BatchStream(process, items, batch_size=64, window=256)
        stream.start()                        # work begins; without this, when the first batch is asked for
        async for batch in stream.batches(): ...
        await stream.close()                  # nothing of it is at work after this, whatever happened

    What a group costs does not grow with the window.
    """

    def __init__(
        self,
        process: Callable[[T], Awaitable[Slice]],
        items: Iterator[T],
        *,
        batch_size: int,
        window: int,
        max_batches: int | None = None,
        most: int = 1,
    ) -> None:
        """
        Args:
            process: works on one item; an empty slice means that the group was dropped.
            items: in the order in which batches fill.
            batch_size: examples of one batch.
            window: items in flight at most.
            max_batches: stop after so many; no more items are started than they need if each gives as many examples as it may.
            most: examples of one item at most.
        """
        self._process = process
        self._items = items
        self._batch_size = batch_size
        self._window = window
        self._max_batches = max_batches
        self._most = most
        self._pending: deque[asyncio.Future[Slice]] = deque()
        self._partial: deque[Slice] = deque()
        self._examples = 0
        """Of ``_partial``."""
        self._made = 0
        self._failed: asyncio.Future[None] | None = None
        """An item's failure, for whoever works beside the stream."""

    def start(self) -> None:
        """Start as many items as the window has room for."""
        while len(self._pending) < self._room():
            try:
                item = next(self._items)
            except StopIteration:
                return
            task = asyncio.ensure_future(self._process(item))
            task.add_done_callback(self._note)
            self._pending.append(task)

    async def start_beside(self, *work: Coroutine[Any, Any, None]) -> None:
        """Start, and run other work to its end meanwhile; the work goes first. A failure of either ends both.

        Raises:
            Exception: the first failure.
        """
        self._failed = asyncio.get_running_loop().create_future()
        tasks = [asyncio.ensure_future(part) for part in work]
        ends: list[asyncio.Future[Any]] = [self._failed, asyncio.gather(*tasks)]
        try:
            await asyncio.sleep(0)
            self.start()
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            await next(end for end in ends if end.done())
        finally:
            for task in (*tasks, self._failed):
                task.cancel()
            await asyncio.gather(*tasks, *ends, return_exceptions=True)
            self._failed = None

    async def batches(self) -> AsyncGenerator[Batch]:
        """Batches in the items' order. The last one may be short, unless ``max_batches`` ended the stream."""
        taken = 0
        while self._made != self._max_batches:
            self.start()
            if not self._pending:
                if self._examples:
                    yield Batch(self._cut(self._examples), taken)
                return
            self._add(await self._pending[0])
            self._pending.popleft()
            taken += 1
            while self._examples >= self._batch_size and self._made != self._max_batches:
                batch = Batch(self._cut(self._batch_size), taken)
                self._made += 1
                self.start()
                yield batch
        await asyncio.gather(*self._pending)  # groups that turned out not to be needed: no engine is left with work that nobody wants

    async def close(self) -> None:
        """Abandon what is in flight."""
        for task in self._pending:
            task.cancel()
        await asyncio.gather(*self._pending, return_exceptions=True)

    def _note(self, task: asyncio.Future[Slice]) -> None:
        failed = None if task.cancelled() else task.exception()
        if failed is not None and self._failed is not None and not self._failed.done():
            self._failed.set_exception(failed)

    def _room(self) -> int:
        if self._max_batches is None:
            return self._window
        missing = (self._max_batches - self._made) * self._batch_size - self._examples
        return min(self._window, -(-missing // self._most))

    def _add(self, group: Slice) -> None:
        if group.stop > group.start:
            self._partial.append(group)
            self._examples += group.stop - group.start

    def _cut(self, size: int) -> tuple[Slice, ...]:
        """Take the first ``size`` examples off."""
        self._examples -= size
        first: list[Slice] = []
        while size:
            part = self._partial.popleft()
            if part.stop - part.start > size:
                self._partial.appendleft(replace(part, start=part.start + size))
                part = replace(part, stop=part.start + size)
            first.append(part)
            size -= part.stop - part.start
        return tuple(first)


def rebatch(batches: Sequence[Batch], batch_size: int, seed: int) -> list[Batch]:
    """The same examples in a new order, for another pass over them; the short batch, if there is one, stays last."""
    singles = [replace(part, start=k, stop=k + 1) for batch in batches for part in batch.slices for k in range(part.start, part.stop)]
    taken = batches[-1].groups_taken if batches else 0
    order = np.random.default_rng(seed).permutation(len(singles))
    shuffled = [singles[k] for k in order]
    return [Batch(tuple(shuffled[k : k + batch_size]), taken) for k in range(0, len(shuffled), batch_size)]
