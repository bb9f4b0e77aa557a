"""Simulated roles, and a clock that skips their waiting times.

The clock shows the CPU seconds that this process has used plus the seconds that it would have slept. So a run of hours is simulated in
seconds, its duration is exact, and the driver's work is part of it.
"""

from __future__ import annotations

import asyncio
import heapq
import selectors
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from raypref import types
from raypref.roles import Audience
from raypref.types import ExamplesRef, RolloutRef

T = TypeVar("T")

REF: Any = bytes(28)
"""Stands for an ``ObjectRef``, whose id has as many bytes."""


class _NoWaiting(selectors.DefaultSelector):
    """Sums the time-outs instead of waiting, and reads the clock once per turn of the event loop, as libuv does."""

    def __init__(self) -> None:
        super().__init__()
        self._skipped_s = 0.0
        self.now = time.process_time()

    def select(self, timeout: float | None = None) -> Any:
        waits = timeout is not None and timeout > 0
        ready = super().select(0 if waits else timeout)
        if waits and not ready:
            self._skipped_s += timeout or 0.0
        self.now = time.process_time() + self._skipped_s
        return ready


class SimulatedLoop(asyncio.SelectorEventLoop):
    """An event loop that uses this clock."""

    def __init__(self) -> None:
        self._clock = _NoWaiting()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now


def simulate(work: Callable[[], Coroutine[Any, Any, T]]) -> tuple[T, float]:
    """Run to the end; returns the result and the seconds on the simulated clock."""
    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        loop = runner.get_loop()
        start = loop.time()
        result = runner.run(work())
        return result, loop.time() - start


class Station:
    """Works on ``places`` items at a time, in the order in which they arrive."""

    def __init__(self, places: int) -> None:
        self._free_at = [0.0] * places
        """When each place becomes free: a heap."""

    def work(self, seconds: float) -> Awaitable[None]:
        """Returns when a place has become free and ``seconds`` have passed."""
        now = asyncio.get_running_loop().time()
        done = max(now, self._free_at[0]) + seconds
        heapq.heapreplace(self._free_at, done)
        return asyncio.sleep(done - now)


@dataclass(frozen=True, slots=True)
class Speeds:
    """Durations of the stages."""

    engines: int
    groups_at_once: int
    """Number of groups that an engine samples at a time."""
    group_s: float
    """Mean seconds of a group in a full engine; they vary, as response lengths do."""
    judge_s: float = 0.0
    """For each group; one oracle."""
    score_s: float = 0.0
    """For each group; one reference."""
    step_s: float = 0.0
    sync_s: float = 0.0
    save_s: float = 0.0

    def draw(self, index: int) -> float:
        """Seconds of the group of this index: from 0.5 to 1.5 times the mean."""
        return self.group_s * (0.5 + (index * 0.6180339887) % 1.0)


class SimulatedEngines:
    def __init__(self, speeds: Speeds) -> None:
        self._speeds = speeds
        self._engines = Station(speeds.engines * speeds.groups_at_once)

    async def sample(self, request: types.SampleRequest) -> RolloutRef:
        await self._engines.work(self._speeds.draw(request.prompt.index))
        return REF

    async def probe(self, requests: Sequence[types.SampleRequest]) -> Mapping[str, Sequence[types.Rollout]]:
        return {}

    async def weight_checksums(self) -> Mapping[str, Mapping[str, int]]:
        return {}


class SimulatedOracle:
    """Keeps every group, and makes one example of each."""

    METRICS: Mapping[str, float] = {
        f"{role}/{name}": 1.0
        for role, names in (
            ("rollout", ("tokens", "response_tokens", "truncated")),
            ("oracle", ("win_rate_spread", "cycle", "abstained", "dropped")),
        )
        for name in names
    }

    def __init__(self, speeds: Speeds) -> None:
        self._seconds = speeds.judge_s
        self._oracle = Station(1)

    async def judge(self, rollout: RolloutRef, partner: RolloutRef | None = None) -> tuple[types.Verdict, ExamplesRef]:
        await self._oracle.work(self._seconds)
        return types.Verdict(0, 1, dict(self.METRICS)), REF

    async def recall(self, request: types.SampleRequest) -> RolloutRef:
        raise NotImplementedError("simulated runs are not resumed")

    async def compare(self, challenger: RolloutRef, defender: RolloutRef) -> types.Comparison:
        raise NotImplementedError("simulated runs are not evaluated")

    async def matrix(self, rollout: RolloutRef) -> types.PreferenceMatrix:
        raise NotImplementedError("simulated runs are not evaluated")

    async def seal(self, iteration: int) -> None:
        pass


class SimulatedReference:
    def __init__(self, speeds: Speeds) -> None:
        self._seconds = speeds.score_s
        self._reference = Station(1)

    async def score(self, examples: ExamplesRef) -> ExamplesRef:
        await self._reference.work(self._seconds)
        return REF

    async def refresh(self, directory: Path) -> None:
        pass

    async def seal(self, iteration: int) -> None:
        pass

    async def probe(self, sequences: Sequence[types.TokenSequence]) -> Mapping[str, Any]:
        return {}

    async def weight_checksums(self) -> Mapping[str, Mapping[str, int]]:
        return {}


class SimulatedLearner:
    def __init__(self, speeds: Speeds) -> None:
        self._speeds = speeds

    async def step(self, batch: Sequence[types.Slice]) -> Mapping[str, float]:
        await asyncio.sleep(self._speeds.step_s)
        return dict.fromkeys(("loss", "grad_norm", "learning_rate", "tokens"), 1.0)

    async def evaluate(self, examples: Sequence[types.Slice]) -> Mapping[str, float]:
        raise NotImplementedError("simulated runs are not evaluated")

    async def likelihood(self, texts: Sequence[types.Slice]) -> Mapping[str, float]:
        raise NotImplementedError("simulated runs are not evaluated")

    async def begin_iteration(self, iteration: int, steps: int) -> None:
        pass

    async def regularise(self, rollouts: Sequence[RolloutRef]) -> None:
        pass

    async def refresh_reference(self, directory: Path) -> None:
        pass

    async def sync(self, version: int, audience: Audience = "all") -> Mapping[str, int]:
        await asyncio.sleep(self._speeds.sync_s)
        return {}

    async def probe(self, sequences: Sequence[types.TokenSequence]) -> Sequence[Any]:
        return []

    async def save(self, directory: Path, policy: Path | None = None) -> None:
        await asyncio.sleep(self._speeds.save_s)
        if policy is not None:
            await self.export(policy)

    async def saved(self) -> bool:
        return True

    async def load(self, directory: Path) -> None:
        pass

    async def export(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)


def prompts(count: int, tokens: int) -> list[types.Prompt]:
    """Prompts of ``tokens`` tokens, with about four characters per token."""
    ids = np.arange(tokens, dtype=np.int32)
    return [types.Prompt(index, f"prompt-{index}", "word " * (tokens * 4 // 5), ids) for index in range(count)]
