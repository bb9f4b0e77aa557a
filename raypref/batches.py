"""Prompts to full batches, in prompt order, at most a window ahead.

Groups are worked on concurrently and finish in any order; batches fill in the order of the prompts, from the groups that are kept. The
window is bounded by prompt index: the prompt that is due is always among those in flight, so a full window cannot block it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

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
    """Turns items (prompts) into batches by way of ``process``, which gives an item's examples."""

    def __init__(self, process: Callable[[T], Awaitable[Slice]], *, batch_size: int, window: int, max_batches: int | None = None) -> None:
        """
        Args:
            process: works on one item; an empty slice means that the group was dropped.
            batch_size: examples of one batch.
            window: items in flight at most.
            max_batches: stop after so many; no more items are started than they can still need.
        """
        self._process = process
        self._batch_size = batch_size
        self._window = window
        self._max_batches = max_batches

    async def batches(self, items: Iterator[T]) -> AsyncGenerator[Batch]:
        """Batches in the items' order. The last one may be short, unless ``max_batches`` ended the stream."""
        pending: deque[asyncio.Future[Slice]] = deque()
        partial: list[Slice] = []
        taken = made = 0
        try:
            while self._max_batches is None or made < self._max_batches:
                self._admit(items, pending, room=self._room(made, _count(partial)))
                if not pending:
                    break
                group = await pending.popleft()
                taken += 1
                partial.append(group)
                while _count(partial) >= self._batch_size and made != self._max_batches:
                    full, partial = _cut(partial, self._batch_size)
                    made += 1
                    self._admit(items, pending, room=self._room(made, _count(partial)))
                    yield Batch(tuple(full), taken)
            else:
                await asyncio.gather(*pending)  # groups that turned out not to be needed: no engine is left with work that nobody wants
                return
            if _count(partial):
                yield Batch(tuple(part for part in partial if part.stop > part.start), taken)
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)

    def _room(self, made: int, partial: int) -> int:
        if self._max_batches is None:
            return self._window
        return min(self._window, (self._max_batches - made) * self._batch_size - partial)

    def _admit(self, items: Iterator[T], pending: deque[asyncio.Future[Slice]], room: int) -> None:
        while len(pending) < room:
            try:
                item = next(items)
            except StopIteration:
                return
            pending.append(asyncio.ensure_future(self._process(item)))


def rebatch(batches: Sequence[Batch], batch_size: int, seed: int) -> list[Batch]:
    """The same examples in a new order, for another pass over them; the short batch, if there is one, stays last."""
    singles = [replace(part, start=k, stop=k + 1) for batch in batches for part in batch.slices for k in range(part.start, part.stop)]
    taken = batches[-1].groups_taken if batches else 0
    order = np.random.default_rng(seed).permutation(len(singles))
    shuffled = [singles[k] for k in order]
    return [Batch(tuple(shuffled[k : k + batch_size]), taken) for k in range(0, len(shuffled), batch_size)]


def _count(parts: Sequence[Slice]) -> int:
    return sum(part.stop - part.start for part in parts)


def _cut(parts: Sequence[Slice], size: int) -> tuple[list[Slice], list[Slice]]:
    """The first ``size`` examples, and the rest."""
    first: list[Slice] = []
    rest: list[Slice] = []
    for part in parts:
        take = min(part.stop - part.start, size)
        size -= take
        if take:
            first.append(replace(part, stop=part.start + take))
        if part.start + take < part.stop:
            rest.append(replace(part, start=part.start + take))
    return first, rest
