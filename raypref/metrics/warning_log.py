"""Says what is wrong with a run while it goes on: each finding of ``raypref.metrics.health`` in the log and in ``warnings.jsonl``."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path

from raypref.metrics.health import Finding, HealthWatch
from raypref.metrics.table import MetricTable

logger = logging.getLogger(__name__)

FILE = "warnings.jsonl"


class WarningLog:
    """A sink. It reads the metrics that an interrupted run has written, so that a resumed one says nothing twice."""

    def __init__(self, directory: Path, table: MetricTable, max_grad_norm: float = 0.0) -> None:
        """
        Args:
            directory: the run's output directory; its ``metrics.jsonl`` holds what counts of an earlier attempt.
            table: the run's metrics.
            max_grad_norm: ``learner.max_grad_norm``.
        """
        self._watch = HealthWatch(table, max_grad_norm)
        metrics = directory / "metrics.jsonl"
        lines = metrics.read_text(encoding="utf-8").splitlines() if metrics.exists() else []
        self._file = (directory / FILE).open("w", encoding="utf-8", buffering=1)
        for line in lines:
            self._record(self._watch.observe(json.loads(line)))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        found = self._watch.observe({"step": step, **values})
        for finding in found:
            level = logging.INFO if finding.severity == "note" else logging.WARNING
            logger.log(level, "%s at step %d: %s. %s", finding.severity, step, finding.text, finding.remedy)
        self._record(found)

    def close(self, failed: bool) -> None:
        self._file.close()

    def _record(self, found: list[Finding]) -> None:
        for finding in found:
            self._file.write(json.dumps(finding.as_dict()) + "\n")


def read(directory: Path) -> list[dict[str, object]]:
    """The warnings of a run, in the order in which they arose; none where it has written no file."""
    path = directory / FILE
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
