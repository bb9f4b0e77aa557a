"""From prompts to full batches: many groups in flight, batches in the order of the prompts.

Groups are processed concurrently and finish in any order; batches fill in the order of the prompts, from the groups that are kept. At most
``window`` groups are in flight. They are consecutive prompts, so the prompt whose turn it is is always one of them and a full window
cannot block it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np

from raypref.types import Slice

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Batch:
    """The examples of one optimiser step."""

    slices: tuple[Slice, ...]
    groups_taken: int
    """How many of the iteration's groups, dropped ones included, come before the end of this batch."""
    epoch: int = 0
    """The pass over the iteration's examples, from 0."""

    @property
    def examples(self) -> int:
        return sum(part.stop - part.start for part in self.slices)


class BatchStream(Generic[T]):
    """Turns items (prompts) into batches; ``process`` turns one item into its examples.

        stream = BatchStream(process, items, batch_size=64, window=256)
        stream.start()                        # optional: otherwise work starts when the first batch is asked for
        async for batch in stream.batches(): ...
        await stream.close()                  # cancels what is still in flight, also after an error

    The time that a group costs here does not grow with the window.
    """

    def __init__(
        self,
        process: Callable[[T], Awaitable[Slice]],
        items: Iterator[T],
        *,
        batch_size: int,
        window: int,
        max_batches: int | None = None,
        max_examples: int = 1,
    ) -> None:
        """
        Args:
            process: turns one item into its examples; an empty slice means that the group was dropped.
            items: in the order in which batches fill.
            batch_size: examples per batch.
            window: largest number of items in flight.
            max_batches: end after this many. No more items are started than these batches need if every item gives ``max_examples``.
            max_examples: largest number of examples per item.
        """
        self._process = process
        self._items = items
        self._batch_size = batch_size
        self._window = window
        self._max_batches = max_batches
        self._max_examples = max_examples
        self._pending: deque[asyncio.Future[Slice]] = deque()
        self._partial: deque[Slice] = deque()
        """Examples that are in no batch yet."""
        self._examples = 0
        """The number of examples in ``_partial``."""
        self._batches = 0
        """Full batches so far."""
        self._failure: asyncio.Future[None] | None = None
        """Set while ``fill_during`` runs; the first failure of an item is put here."""

    def start(self) -> None:
        """Start as many items as the window has room for."""
        while len(self._pending) < self._room():
            try:
                item = next(self._items)
            except StopIteration:
                return
            task = asyncio.ensure_future(self._process(item))
            task.add_done_callback(self._note_failure)
            self._pending.append(task)

    async def fill_during(self, *work: Awaitable[None]) -> None:
        """Run other work to its end and let the stream process its first items meanwhile; the work starts first.

        Raises:
            Exception: the first failure, of the work or of an item; the work is cancelled.
        """
        self._failure = asyncio.get_running_loop().create_future()
        tasks = [asyncio.ensure_future(part) for part in work]
        ends: list[asyncio.Future[Any]] = [self._failure, asyncio.gather(*tasks)]
        try:
            await asyncio.sleep(0)
            self.start()
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            await next(end for end in ends if end.done())
        finally:
            for task in (*tasks, self._failure):
                task.cancel()
            await asyncio.gather(*tasks, *ends, return_exceptions=True)
            self._failure = None

    async def batches(self, *, complete_first: bool = False) -> AsyncGenerator[Batch]:
        """Batches in the order of the items. The last one may be short, unless ``max_batches`` ended the stream.

        Args:
            complete_first: process all items before the first batch is given.
        """
        if complete_first:
            for batch in [batch async for batch in self.batches()]:
                yield batch
            return
        taken = 0
        while self._batches != self._max_batches:
            self.start()
            if not self._pending:
                if self._examples:
                    yield Batch(self._cut(self._examples), taken)
                return
            self._add(await self._pending[0])
            self._pending.popleft()
            taken += 1
            while self._examples >= self._batch_size and self._batches != self._max_batches:
                batch = Batch(self._cut(self._batch_size), taken)
                self._batches += 1
                self.start()
                yield batch
        await asyncio.gather(*self._pending)  # groups that were not needed after all: engines must be idle at the weight sync

    async def epochs(self, seeds: Sequence[int], *, complete_first: bool = False) -> AsyncGenerator[Batch]:
        """``batches``, then the same examples once more for each seed, in the order that the seed fixes."""
        first: list[Batch] = []
        async with contextlib.aclosing(self.batches(complete_first=complete_first)) as batches:
            async for batch in batches:
                if seeds:
                    first.append(batch)
                yield batch
        for epoch, seed in enumerate(seeds, start=1):
            for batch in rebatch(first, self._batch_size, seed):
                yield replace(batch, epoch=epoch)

    def unused(self) -> dict[str, float]:
        """Metrics of what is in no batch once the stream has ended, groups and examples; none where all of them are (``max_batches``)."""
        if self._max_batches is None:
            return {}
        groups = [task.result() for task in self._pending if task.done() and not task.cancelled() and task.exception() is None]
        whole = len(groups) + sum(part.start == 0 for part in self._partial)
        examples = self._examples + sum(group.stop - group.start for group in groups)
        return {"rollout/unused_groups": float(whole), "rollout/unused_examples": float(examples)}

    async def close(self) -> None:
        """Cancel what is in flight."""
        for task in self._pending:
            task.cancel()
        await asyncio.gather(*self._pending, return_exceptions=True)

    def _note_failure(self, task: asyncio.Future[Slice]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None and self._failure is not None and not self._failure.done():
            self._failure.set_exception(error)

    def _room(self) -> int:
        if self._max_batches is None:
            return self._window
        missing = (self._max_batches - self._batches) * self._batch_size - self._examples
        return min(self._window, -(-missing // self._max_examples))

    def _add(self, group: Slice) -> None:
        if group.stop > group.start:
            self._partial.append(group)
            self._examples += group.stop - group.start

    def _cut(self, size: int) -> tuple[Slice, ...]:
        """Remove the first ``size`` examples from ``_partial`` and return them."""
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
    """The same examples in a new order, for another epoch; the short batch, if there is one, stays last."""
    singles = [replace(part, start=k, stop=k + 1) for batch in batches for part in batch.slices for k in range(part.start, part.stop)]
    taken = batches[-1].groups_taken if batches else 0
    order = np.random.default_rng(seed).permutation(len(singles))
    shuffled = [singles[k] for k in order]
    return [Batch(tuple(shuffled[k : k + batch_size]), taken) for k in range(0, len(shuffled), batch_size)]
