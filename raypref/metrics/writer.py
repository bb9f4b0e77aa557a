"""Metrics while a run goes on: the writer, running averages, a clock of the stages, throughput.

``raypref.metrics.table`` defines the names.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Self

from raypref.metrics.sinks import Sink, TensorBoard
from raypref.metrics.table import MetricTable
from raypref.sections import PlacementConfig
from raypref.types import Total


class MetricsWriter:
    """Appends to ``metrics.jsonl``, and gives each line to TensorBoard and to other sinks."""

    def __init__(
        self, directory: Path, after_step: int | None = None, table: MetricTable | None = None, sinks: Iterable[Sink] = ()
    ) -> None:
        """
        Args:
            directory: the run's output directory.
            after_step: when resuming: TensorBoard events after this step are purged, since those steps are repeated.
            table: the metrics that may be written; default: raypref's own.
            sinks: where they go as well.
        """
        directory.mkdir(parents=True, exist_ok=True)
        self._table = MetricTable() if table is None else table
        self._sinks: list[Sink] = [TensorBoard(directory, self._table, after_step), *sinks]
        self._file = (directory / "metrics.jsonl").open("a", buffering=1)
        self._start = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *failure: object) -> None:
        self.close(failed=kind is not None)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Record ``values`` at an optimiser step. NaN is written as null.

        Raises:
            ValueError: a name is not in the table.
        """
        if not values:
            return
        self._table.check(values)
        line = {"step": step, "time/run_s": round(time.monotonic() - self._start, 3)} | {name: float(v) for name, v in values.items()}
        self._file.write(json.dumps({k: (None if isinstance(v, float) and math.isnan(v) else v) for k, v in line.items()}) + "\n")
        for sink in self._sinks:
            sink.write(step, values)

    def close(self, failed: bool = False) -> None:
        """Close the file and every sink.

        Args:
            failed: whether the run ended by an error.
        """
        self._file.close()
        with contextlib.ExitStack() as stack:  # one that fails keeps no other from being closed
            for sink in self._sinks:
                stack.callback(sink.close, failed)


class RunMeter:
    """What a run measures while it goes on, written per step and per iteration: means over groups, seconds per stage, throughput."""

    def __init__(self, writer: MetricsWriter, placement: PlacementConfig) -> None:
        self.writer = writer
        self._clock = StageClock()
        self._averages = Averages()
        self._throughput = Throughput(placement)

    def started(self) -> None:
        """The first iteration begins; the time until now was spent on the start."""
        self._clock.take()

    def stage(self, name: str) -> _Stage:
        """``with meter.stage(name):`` around a call, whose time counts as that stage's."""
        return self._clock.stage(name)

    def seconds(self) -> dict[str, float]:
        """Stage -> its seconds since the start."""
        return self._clock.seconds()

    def group(self, metrics: Mapping[str, float]) -> None:
        """Count a judged group."""
        self._averages.add(metrics)
        self._throughput.add_sampled(metrics)

    def unused(self, counts: Mapping[str, float]) -> None:
        """Note what the iteration sampled and no step used."""
        self._throughput.add_unused(counts)

    def forget_groups(self) -> None:
        """Start the means over groups anew: in a resumed run, those so far were written before."""
        self._averages.take()

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write the metrics of an optimiser step, and the means over the groups since the step before."""
        self._throughput.add_trained(metrics)
        self.writer.write(step, {**metrics, **self._averages.take()})

    def iteration(self, step: int) -> None:
        """Write the times and the throughput of an iteration, and the means over groups that no step has written."""
        self.writer.write(step, self._averages.take() | self._throughput.take(self._clock.take()))

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write metrics of a weight sync or an evaluation."""
        self.writer.write(step, metrics)


class Averages:
    """Means of per-group values since they were last taken; sums of ``Total`` values since the run was started or resumed.

    NaN means "does not apply" and is left out.
    """

    def __init__(self) -> None:
        self._sums: dict[str, float] = defaultdict(float)
        self._counts: dict[str, int] = defaultdict(int)
        self._totals: dict[str, float] = defaultdict(float)

    def add(self, values: Mapping[str, float]) -> None:
        """Count the values of one group."""
        for name, value in values.items():
            if math.isnan(value):
                continue
            if isinstance(value, Total):
                self._totals[name] += value
            else:
                self._sums[name] += value
                self._counts[name] += 1

    def take(self) -> dict[str, float]:
        """The means and totals; the means start anew."""
        means = {name: total / self._counts[name] for name, total in self._sums.items()}
        self._sums.clear()
        self._counts.clear()
        return means | {name: Total(value) for name, value in self._totals.items()}


class StageClock:
    """Wall seconds in which a stage had at least one call in flight. Stages overlap, so they may add up to more than the run's time."""

    def __init__(self) -> None:
        self._stages: dict[str, _Stage] = defaultdict(_Stage)
        self._taken_at = time.monotonic()
        self._taken: dict[str, float] = {}

    def stage(self, name: str) -> _Stage:
        """``with clock.stage(name):`` around a call."""
        return self._stages[name]

    def take(self) -> dict[str, float]:
        """Metrics of the time since they were last taken: ``time/iteration_s``, and ``time/<stage>_s`` of every stage so far."""
        now, seconds = time.monotonic(), self.seconds()
        spent = {"iteration": now - self._taken_at} | {name: total - self._taken.get(name, 0.0) for name, total in seconds.items()}
        self._taken_at, self._taken = now, seconds
        return {f"time/{name}_s": round(value, 3) for name, value in spent.items()}

    def seconds(self) -> dict[str, float]:
        """Stage -> its seconds since the start."""
        return {name: round(stage.total_s, 3) for name, stage in self._stages.items()}


class _Stage:
    """One stage of the clock, entered by any number of calls at a time; one object for all calls, since every group enters three."""

    __slots__ = ("_active", "_since", "total_s")

    def __init__(self) -> None:
        self._active = 0
        self._since = 0.0
        self.total_s = 0.0

    def __enter__(self) -> None:
        if self._active == 0:
            self._since = time.monotonic()
        self._active += 1

    def __exit__(self, *failure: object) -> None:
        self._active -= 1
        if self._active == 0:
            self.total_s += time.monotonic() - self._since


class Throughput:
    """Tokens per second per GPU, sampled and trained, of one iteration at a time."""

    def __init__(self, placement: PlacementConfig) -> None:
        self._gpus = {"sampled": placement.rollout.engines * placement.rollout.tensor_parallel, "trained": placement.learner.ranks}
        self._tokens = dict.fromkeys(self._gpus, 0.0)
        self._unused: Mapping[str, float] = {}

    def add_unused(self, counts: Mapping[str, float]) -> None:
        """Note what the iteration sampled and no step used."""
        self._unused = counts

    def add_sampled(self, metrics: Mapping[str, float]) -> None:
        """Count a group by its ``rollout/tokens``."""
        self._tokens["sampled"] += metrics.get("rollout/tokens", 0.0)

    def add_trained(self, metrics: Mapping[str, float]) -> None:
        """Count a step by its ``tokens``."""
        self._tokens["trained"] += metrics.get("tokens", 0.0)

    def take(self, times: Mapping[str, float]) -> dict[str, float]:
        """The iteration's times, and the throughput that follows from them; what did not happen is left out.

        Args:
            times: ``StageClock.take()`` at the end of the iteration.
        """
        seconds = {"sampled": times.get("time/rollout_s", 0.0), "trained": times.get("time/train_s", 0.0)}
        rates = {
            f"tokens_per_second_per_gpu/{name}": self._tokens[name] / (seconds[name] * gpus)
            for name, gpus in self._gpus.items()
            if self._tokens[name] and seconds[name] and gpus
        }
        self._tokens = dict.fromkeys(self._gpus, 0.0)
        unused, self._unused = self._unused, {}
        return {**times, **rates, **unused}
