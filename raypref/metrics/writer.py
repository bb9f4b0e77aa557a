"""Metrics while a run goes on: the writer, and what the loop measures: running averages, times (``clock``), ``throughput``.

``raypref.metrics.table`` defines the names.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Self

from raypref.metrics.clock import Stage, StageClock
from raypref.metrics.sinks import Sink, TensorBoard, sinks_of
from raypref.metrics.table import MetricTable
from raypref.metrics.throughput import Speed, Throughput
from raypref.sections import PlacementConfig
from raypref.types import Total

if TYPE_CHECKING:
    from raypref.config import RunConfig


class MetricsWriter:
    """Appends to ``metrics.jsonl`` and ``timeline.jsonl``, and gives each line of metrics to TensorBoard and to other sinks."""

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
        self._timeline = (directory / "timeline.jsonl").open("a", buffering=1)
        self._start = time.monotonic()
        self._timeline.write(json.dumps({"begins": time.strftime("%Y-%m-%dT%H:%M:%S%z")}) + "\n")

    @classmethod
    def of(cls, config: RunConfig, after_step: int | None = None) -> Self:
        """The writer of a run, with its table and the sinks that it asks for. ``output_dir`` of a resumed run is rewound already."""
        table = MetricTable.of(config)
        return cls(config.output_dir, after_step, table, sinks_of(config, table))

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

    def write_spans(self, spans: Iterable[tuple[str, float, float]]) -> None:
        """Add to ``timeline.jsonl`` when which stage was at work: begin and end, in seconds since this writer was made."""
        lines = [[name, round(begin - self._start, 3), round(end - self._start, 3)] for name, begin, end in spans]
        if lines:
            self._timeline.write(json.dumps({"spans": lines}) + "\n")

    def close(self, failed: bool = False) -> None:
        """Close the files and every sink.

        Args:
            failed: whether the run ended by an error.
        """
        self._file.close()
        self._timeline.close()
        with contextlib.ExitStack() as stack:  # one that fails keeps no other from being closed
            for sink in self._sinks:
                stack.callback(sink.close, failed)


class RunMeter:
    """What a run measures while it goes on, written per step and per iteration: means over groups, seconds per stage, throughput."""

    def __init__(self, writer: MetricsWriter, placement: PlacementConfig) -> None:
        self.writer = writer
        self.sources: list[Callable[[], Mapping[str, float]]] = []
        """Asked for further metrics at every step and at the end of an iteration: figures that the actors keep."""
        self.speed: Speed | None = None
        """What ``mfu`` is computed from; None: it is left out."""
        self._clock = StageClock()
        self._averages = Averages()
        self._throughput = Throughput(placement)

    def started(self) -> None:
        """The first iteration begins; the time until now was spent on the start."""
        self._clock.take()

    def stage(self, name: str) -> Stage:
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

    def step(self, step: int, metrics: Mapping[str, float], synced_step: int | None = None) -> None:
        """Write the metrics of an optimiser step, and the means over the groups since the step before.

        Args:
            step: the number of this step, from 1.
            metrics: the learner's.
            synced_step: after how many steps the policy was taken that sampled the batch; None for given data.
        """
        self._throughput.add_trained(metrics)
        age = {} if synced_step is None else {"policy_age": float(step - 1 - synced_step)}
        self.write(step, {**metrics, **age, **self._clock.in_flight(), **self._averages.take(), **self._of_actors()})

    def iteration(self, step: int) -> None:
        """Write the times and the throughput of an iteration, and the means over groups that no step has written."""
        times = self._clock.take()
        self.write(step, self._averages.take() | self._throughput.take(times, self.speed) | self._clock.waiting() | self._of_actors())

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write metrics, such as those of a weight sync or an evaluation, and which stages were at work since the last time."""
        self.writer.write(step, metrics)
        self.writer.write_spans(self._clock.take_spans())

    def _of_actors(self) -> dict[str, float]:
        return {name: value for source in self.sources for name, value in source().items()}


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
