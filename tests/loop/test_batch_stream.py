"""Batches fill in prompt order from the groups that are kept, whatever order the groups finish in."""

from __future__ import annotations

import asyncio
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from raypref.loop.batch_stream import Batch, BatchStream, rebatch
from raypref.types import Slice


def drain(
    sizes: list[int], *, batch_size: int, window: int, max_batches: int | None = None, max_examples: int = 1, seed: int = 0
) -> tuple[list[Batch], int]:
    """The batches of groups with ``sizes`` examples each, and how many groups were started."""
    delays = random.Random(seed)
    started = 0

    async def process(index: int) -> Slice:
        nonlocal started
        started += 1
        await asyncio.sleep(delays.random() * 0.001)
        return Slice(index, 0, sizes[index])

    async def collect() -> list[Batch]:
        stream = BatchStream(
            process, iter(range(len(sizes))), batch_size=batch_size, window=window, max_batches=max_batches, max_examples=max_examples
        )
        return [batch async for batch in stream.batches()]

    return asyncio.run(collect()), started


def flat(batches: list[Batch]) -> list[tuple[int, int]]:
    return [(part.ref, k) for batch in batches for part in batch.slices for k in range(part.start, part.stop)]


def test_group_that_overflows_a_batch_is_cut() -> None:
    """Groups of 2, 3, 0 and 2 examples in batches of 4: (a0 a1 b0 b1) (b2 d0 d1); after the first batch two groups are used up."""
    batches, _ = drain([2, 3, 0, 2], batch_size=4, window=2)
    assert [[(part.ref, part.start, part.stop) for part in batch.slices] for batch in batches] == [
        [(0, 0, 2), (1, 0, 2)],
        [(1, 2, 3), (3, 0, 2)],
    ]
    assert [batch.groups_taken for batch in batches] == [2, 4]


@settings(deadline=None, max_examples=50)
@given(
    sizes=st.lists(st.integers(0, 4), max_size=12),
    batch_size=st.integers(1, 5),
    window=st.integers(1, 8),
    seed=st.integers(0, 9),
)
def test_every_example_once_and_in_order(sizes: list[int], batch_size: int, window: int, seed: int) -> None:
    batches, _ = drain(sizes, batch_size=batch_size, window=window, seed=seed)
    assert flat(batches) == [(group, k) for group, size in enumerate(sizes) for k in range(size)]
    assert all(batch.examples == batch_size for batch in batches[:-1])


@settings(deadline=None, max_examples=30)
@given(window=st.integers(1, 8), max_batches=st.integers(1, 3))
def test_max_batches_starts_no_group_that_is_not_needed(window: int, max_batches: int) -> None:
    """Each group gives one example, so exactly batch_size * max_batches groups are started."""
    batches, started = drain([1] * 20, batch_size=3, window=window, max_batches=max_batches)
    assert len(batches) == max_batches
    assert started == 3 * max_batches


def test_what_no_batch_takes_is_counted() -> None:
    """One batch of three: one example of group 0, two of group 1. Of group 1 one is left, and group 2 with two was in flight."""
    sizes = [1, 3, 2, 1]

    async def process(index: int) -> Slice:
        return Slice(index, 0, sizes[index])

    async def left(max_batches: int | None) -> dict[str, float]:
        stream = BatchStream(process, iter(range(4)), batch_size=3, window=3, max_batches=max_batches)
        assert [batch async for batch in stream.batches()]
        return stream.unused()

    assert asyncio.run(left(1)) == {"rollout/unused_groups": 1.0, "rollout/unused_examples": 3.0}
    assert asyncio.run(left(None)) == {}, "every example is in a batch, the last of which may be short"


def test_failure_of_a_group_ends_the_stream_and_leaves_nothing_running() -> None:
    async def process(index: int) -> Slice:
        await asyncio.sleep(0.001 * index)
        if index == 2:
            raise ValueError("group 2")
        return Slice(index, 0, 1)

    async def collect() -> tuple[str, int]:
        stream = BatchStream(process, iter(range(8)), batch_size=1, window=8)
        try:
            async for _ in stream.batches():
                pass
        except ValueError as error:
            await stream.close()
            return str(error), len(asyncio.all_tasks())
        raise AssertionError("the failure was lost")

    assert asyncio.run(collect()) == ("group 2", 1)


def test_started_stream_fills_its_window_before_a_batch_is_asked_for() -> None:
    """Window 3: items 0, 1, 2 are started and no fourth one, then all come in order; a stream that is closed instead leaves nothing."""

    async def opened(*, used: bool) -> tuple[list[int], list[tuple[int, int]], int]:
        started: list[int] = []

        async def process(index: int) -> Slice:
            started.append(index)
            return Slice(index, 0, 1)

        stream = BatchStream(process, iter(range(5)), batch_size=2, window=3)
        stream.start()
        await asyncio.sleep(0.01)
        before = list(started)
        batches = [batch async for batch in stream.batches()] if used else []
        await stream.close()
        return before, flat(batches), len(asyncio.all_tasks())

    assert asyncio.run(opened(used=True)) == ([0, 1, 2], [(k, 0) for k in range(5)], 1)
    assert asyncio.run(opened(used=False)) == ([0, 1, 2], [], 1)


def test_rebatch_is_a_permutation_that_its_seed_fixes() -> None:
    batches, _ = drain([2, 1, 3], batch_size=4, window=4)
    again = rebatch(batches, 4, seed=1)
    assert sorted(flat(again)) == sorted(flat(batches))
    assert [batch.examples for batch in again] == [4, 2]
    assert flat(again) == flat(rebatch(batches, 4, seed=1)) != flat(rebatch(batches, 4, seed=2))


def test_no_more_groups_are_started_than_their_examples_call_for() -> None:
    """Groups of 28 examples, two batches of 64: 128 / 28 is 4.6, so 5 groups; with 28 wanted of each, 36 would be started."""
    batches, started = drain([28] * 40, batch_size=64, window=36, max_batches=2, max_examples=28)
    assert ([batch.examples for batch in batches], started) == ([64, 64], 5)
