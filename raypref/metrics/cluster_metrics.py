"""Metrics through ``ray.util.metrics``: Ray's dashboard and its Prometheus port show them (docs/watching.md)."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from raypref.metrics.families import Family, family, labels_of
from raypref.metrics.sinks import finite
from raypref.metrics.table import MetricTable

_EVERY_S = 1.0
"""Seconds between two hand-overs to Ray. Prometheus reads its port every few seconds, so that what lies between them is never seen."""


class ClusterMetrics:
    """A sink. Ray must be initialised.

    A line only replaces the newest values; a thread hands them to Ray once a second, so that a step never waits for it.
    """

    def __init__(self, run: str, table: MetricTable) -> None:
        """
        Args:
            run: the name of the run, the label ``run`` of every series.
            table: the run's metrics.
        """
        self._run = run
        self._table = table
        self._metrics: dict[str, Any] = {}
        """Name of a family -> Ray's gauge or counter."""
        self._places: dict[str, tuple[Family, dict[str, str], str]] = {}
        """Name of a metric -> its family, labels and description."""
        self._newest: dict[str, float] = {}
        self._counted: dict[str, float] = {}
        """What a counter has been given so far."""
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._hand_over, daemon=True, name="ray metrics")
        self._thread.start()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        with self._lock:
            self._newest |= finite(values)

    def close(self, failed: bool) -> None:
        self._over.set()
        self._thread.join(timeout=10.0)
        self.flush()

    def flush(self) -> None:
        """Hand over what is new."""
        with self._lock:
            newest, self._newest = self._newest, {}
        for name, value in newest.items():
            self._set(name, value)

    def _hand_over(self) -> None:
        while not self._over.wait(_EVERY_S):
            self.flush()

    def _set(self, name: str, value: float) -> None:
        if name not in self._places:
            entry = self._table.find(name)
            assert entry is not None, "the writer has checked the name"
            self._places[name] = (family(entry), {"run": self._run, **labels_of(name, entry)}, entry.definition)
        place, labels, description = self._places[name]
        metric = self._metrics.get(place.name)
        if metric is None:
            metric = self._metrics[place.name] = _made(place, tuple(labels), description)
        if not place.counter:
            metric.set(value, tags=labels)
        elif (more := value - self._counted.get(name, 0.0)) > 0:
            metric.inc(more, tags=labels)
            self._counted[name] = value


def _made(place: Family, labels: tuple[str, ...], description: str) -> Any:
    from ray.util.metrics import Counter, Gauge

    return (Counter if place.counter else Gauge)(place.name, description=description, tag_keys=labels)
