"""Where metrics go beside ``metrics.jsonl``: the contract of a sink, TensorBoard, and the sinks that a config asks for.

A sink is one class with two methods; ``raypref.metrics.writer`` gives every line to each of them.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from raypref.metrics.table import MetricTable

if TYPE_CHECKING:
    from raypref.config import RunConfig

logger = logging.getLogger(__name__)


class Sink(Protocol):
    """Takes the metrics of a run, line by line."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Metrics at an optimiser step; several lines may have the same step, with other names."""
        ...

    def close(self, failed: bool) -> None:
        """The run, or this attempt of it, has ended.

        Args:
            failed: whether by an error.
        """
        ...


def finite(values: Mapping[str, float]) -> dict[str, float]:
    """The values that are numbers."""
    return {name: float(value) for name, value in values.items() if math.isfinite(value)}


class Dispensable:
    """A sink around another one, whose failures cost the run nothing: the first is logged, and nothing more is written there."""

    def __init__(self, sink: Sink) -> None:
        self._sink: Sink | None = sink

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._try("write", step, values)

    def close(self, failed: bool) -> None:
        self._try("close", failed)

    def _try(self, call: str, *arguments: Any) -> None:
        if self._sink is None:
            return
        try:
            getattr(self._sink, call)(*arguments)
        except Exception:
            name, self._sink = type(self._sink).__name__, None
            logger.exception("%s failed; it gets no more metrics of this run, and metrics.jsonl holds all of them", name)


class TensorBoard:
    """Event files in ``tensorboard/``."""

    def __init__(self, directory: Path, table: MetricTable, after_step: int | None = None) -> None:
        """
        Args:
            directory: the run's output directory.
            table: describes the metrics.
            after_step: when resuming: events after this step are purged, since those steps are repeated.
        """
        from torch.utils.tensorboard import SummaryWriter

        self._board: Any = SummaryWriter(str(directory / "tensorboard"), purge_step=None if after_step is None else after_step + 1)
        self._table = table
        self._described: set[str] = set()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._add(name, float(value), step)

    def close(self, failed: bool) -> None:
        self._board.close()

    def _add(self, name: str, value: float, step: int) -> None:
        """A scalar; the first of its name carries the metric's description, which TensorBoard shows beside the plot.

        ``SummaryWriter.add_scalar`` takes no description, so the first event is written without it.
        """
        from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata

        if name in self._described:
            self._board.add_scalar(name, value, step)
            return
        self._described.add(name)
        metadata = SummaryMetadata(display_name=name, summary_description=self._table.describe(name))
        event = Summary(value=[Summary.Value(tag=name, simple_value=value, metadata=metadata)])
        self._board.file_writer.add_summary(event, step)


def sinks_of(config: RunConfig, table: MetricTable) -> Iterator[Sink]:
    """The sinks that the ``metrics`` section asks for, and the warnings. For a resumed run ``output_dir`` must be rewound already."""
    from raypref.metrics.cluster_metrics import ClusterMetrics
    from raypref.metrics.mlflow_tracker import Mlflow
    from raypref.metrics.wandb_tracker import Wandb
    from raypref.metrics.warning_log import WarningLog

    yield WarningLog(config.output_dir, table, config.learner.max_grad_norm)
    if config.metrics.ray:
        yield Dispensable(ClusterMetrics(config.name, table))
    if config.metrics.wandb is not None:
        yield Dispensable(Wandb(config, config.metrics.wandb))
    if config.metrics.mlflow is not None:
        yield Dispensable(Mlflow(config, config.metrics.mlflow))
