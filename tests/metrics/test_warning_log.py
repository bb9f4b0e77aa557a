"""Warnings of a run that goes on: in its log and in warnings.jsonl, and not again after a resumption."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path

import pytest

from raypref.metrics import sinks
from raypref.metrics.health import findings
from raypref.metrics.sinks import Dispensable
from raypref.metrics.table import MetricTable
from raypref.metrics.warning_log import WarningLog, read
from raypref.metrics.writer import MetricsWriter


def test_a_warning_is_said_once_and_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with MetricsWriter(tmp_path, sinks=[WarningLog(tmp_path, MetricTable())]) as writer:
        for step in range(1, 9):
            writer.write(step, {"rollout/truncated": 1.0})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert read(tmp_path) == [finding.as_dict() for finding in findings(lines)]
    (record,) = (record for record in caplog.records if record.levelno == logging.WARNING)
    assert record.getMessage().startswith("critical at step 3: rollout/truncated is 100% (healthy: at most 30%")
    assert "raise rollout.max_tokens" in record.getMessage()


def test_a_resumed_run_says_nothing_twice(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its file has what the kept lines give; what was said of lines that are gone is gone with them."""
    for attempt in range(2):
        with MetricsWriter(tmp_path, sinks=[WarningLog(tmp_path, MetricTable())]) as writer:
            for step in range(1 + 5 * attempt, 6 + 5 * attempt):
                writer.write(step, {"rollout/truncated": 1.0})
    assert len(read(tmp_path)) == 1
    assert sum("rollout/truncated" in record.getMessage() for record in caplog.records) == 1
    kept = (tmp_path / "metrics.jsonl").read_text().splitlines(keepends=True)[:2]
    (tmp_path / "metrics.jsonl").write_text("".join(kept))
    WarningLog(tmp_path, MetricTable()).close(failed=False)
    assert read(tmp_path) == []


class Broken:
    def __init__(self) -> None:
        self.calls = 0

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self.calls += 1
        raise OSError("no route to the tracker")

    def close(self, failed: bool) -> None:
        raise AssertionError("it was given up")


def test_a_tracker_that_fails_costs_the_run_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    broken = Broken()
    with MetricsWriter(tmp_path, sinks=[Dispensable(broken)]) as writer:
        writer.write(1, {"loss": 1.0})
        writer.write(2, {"loss": 1.0})
    assert broken.calls == 1
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2
    assert [record.name for record in caplog.records] == [sinks.logger.name]
    assert "Broken failed; it gets no more metrics of this run" in caplog.text
