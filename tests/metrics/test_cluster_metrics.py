"""Metrics as Prometheus has them: names and labels from the table, handed to Ray; and the dashboard that reads them."""

from __future__ import annotations

import json
import re
from typing import Any, ClassVar

import pytest
from ray.util import metrics as ray_metrics

from raypref.metrics.cluster_metrics import ClusterMetrics
from raypref.metrics.families import family, labels_of
from raypref.metrics.grafana import FIRST, dashboard
from raypref.metrics.table import METRICS, MetricTable


class Recorded:
    """In place of Ray's gauge and counter."""

    made: ClassVar[dict[str, tuple[str, tuple[str, ...]]]] = {}
    values: ClassVar[list[tuple[str, float, tuple[tuple[str, str], ...]]]] = []

    def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
        assert re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]*", name)
        assert name not in self.made, "one gauge per family"
        self.made[name] = (description, tag_keys)
        self.name, self.keys = name, tag_keys

    def set(self, value: float, tags: dict[str, str]) -> None:
        assert set(tags) == set(self.keys), "Ray refuses other tags"
        self.values.append((self.name, value, tuple(sorted(tags.items()))))

    inc = set


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> type[Recorded]:
    monkeypatch.setattr(Recorded, "made", {})
    monkeypatch.setattr(Recorded, "values", [])
    monkeypatch.setattr(ray_metrics, "Gauge", Recorded)
    monkeypatch.setattr(ray_metrics, "Counter", Recorded)
    return Recorded


@pytest.mark.parametrize(
    ("name", "exported", "labels"),
    [
        ("loss", "ray_raypref_loss", {"part": ""}),
        ("time/rollout_s", "ray_raypref_time_s", {"part": "", "stage": "rollout"}),
        ("time/iteration_s", "ray_raypref_time_iteration_s", {"part": ""}),
        ("eval/win_rate_against_base", "ray_raypref_eval_win_rate_against", {"part": "", "opponent": "base"}),
        ("failures/restarts/rollout", "ray_raypref_failures_restarts_total", {"part": "", "role": "rollout"}),
        ("oracle/requests_total", "ray_raypref_oracle_requests_total", {"part": ""}),
        ("oracle/judge_1/unparsed", "ray_raypref_oracle_unparsed", {"part": "judge_1"}),
        ("eval/oracle/unparsed", "ray_raypref_oracle_unparsed", {"part": "eval"}),
        ("eval/oracle/judge_1/unparsed", "ray_raypref_oracle_unparsed", {"part": "eval/judge_1"}),
        ("eval/logps/rejected", "ray_raypref_logps_rejected", {"part": "eval"}),
    ],
)
def test_a_metric_is_a_series_of_its_family(name: str, exported: str, labels: dict[str, str]) -> None:
    entry = MetricTable().find(name)
    assert entry is not None
    assert family(entry).exported == exported
    assert labels_of(name, entry) == labels


def test_families_have_names_of_their_own() -> None:
    assert len({family(entry).exported for entry in METRICS}) == len(METRICS)


def test_gauges_have_the_newest_value_and_counters_what_came_in_addition(recorded: type[Recorded]) -> None:
    """Retries: 2, then 5 in all, are 2 and 3 more. What is not a number is left out."""
    sink = ClusterMetrics("mine", MetricTable())
    for total, loss in ((2.0, 0.5), (5.0, float("nan"))):
        sink.write(1, {"oracle/retries_total": total, "loss": loss})
        sink.flush()
    sink.close(failed=False)
    tags = (("part", ""), ("run", "mine"))
    counted = [entry for entry in recorded.values if entry[0] == "raypref_oracle_retries"]
    assert counted == [("raypref_oracle_retries", 2.0, tags), ("raypref_oracle_retries", 3.0, tags)]
    assert [entry for entry in recorded.values if entry[0] == "raypref_loss"] == [("raypref_loss", 0.5, tags)]
    assert recorded.made["raypref_loss"] == (METRICS[0].definition, ("run", "part"))


def test_the_end_hands_over_what_is_left(recorded: type[Recorded]) -> None:
    sink = ClusterMetrics("mine", MetricTable())
    sink.write(7, {"time/rollout_s": 2.0, "time/train_s": 1.0})
    sink.close(failed=False)
    assert {(name, value) for name, value, _ in recorded.values} == {("raypref_time_s", 2.0), ("raypref_time_s", 1.0)}


def test_every_metric_has_its_panel() -> None:
    """Entries that name others (``eval/oracle/<metric>``) are shown on the others' panels, by the label ``part``."""
    content: dict[str, Any] = json.loads(dashboard())
    panels = [panel for row in content["panels"] for panel in (row, *row.get("panels", []))]
    asked = {panel["targets"][0]["expr"] for panel in panels if panel["type"] == "timeseries"}
    shown = [entry for entry in METRICS if not entry.name.endswith("/<metric>")]
    assert asked == {f'{family(entry).exported}{{run=~"$run"}}' for entry in shown}
    assert len({panel["id"] for panel in panels}) == len(panels)
    first = [panel["title"].split(" ")[0] for panel in content["panels"] if panel["type"] == "timeseries"]
    assert first == list(FIRST), "on top, unfolded"
    truncated = next(panel for panel in panels if panel["title"].startswith("rollout/truncated"))
    assert "Healthy: 0 to 0.3." in truncated["description"]
    assert truncated["fieldConfig"]["defaults"]["thresholds"]["steps"][-1] == {"color": "red", "value": 0.3}
