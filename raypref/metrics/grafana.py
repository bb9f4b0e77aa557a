"""A Grafana dashboard of a run, made from the metric table: ``docs/grafana.json`` (``make docs-tables``).

One panel per entry of the table, with its definition, healthy range and remedy as the panel's text, and the range as coloured bands. The
first row repeats the panels that one looks at first.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from raypref.metric_info import MetricInfo
from raypref.metrics.families import family
from raypref.metrics.groups import GROUP_METRICS
from raypref.metrics.run import RUN_METRICS
from raypref.metrics.table import METRICS
from raypref.metrics.training import TRAINING_METRICS

FIRST = (
    "eval/win_rate_against_<opponent>",
    "kl",
    "rollout/response_tokens",
    "rollout/truncated",
    "entropy",
    "loss",
    "rewards/margins",
    "tokens_per_second_per_gpu/sampled",
    "tokens_per_second_per_gpu/trained",
)
"""What one looks at first: is it better, how far has it moved, how fast is it."""

_ROWS: tuple[tuple[str, Sequence[MetricInfo]], ...] = (
    ("Overview", tuple(entry for name in FIRST for entry in METRICS if entry.name == name)),
    ("Training", TRAINING_METRICS),
    ("Sampling and judging", GROUP_METRICS),
    ("Evaluation, weight sync, time, engines", RUN_METRICS),
)
_WIDTH, _HEIGHT, _ACROSS = 8, 7, 3
_UNITS = {"share": "percentunit", "probability": "percentunit", "s": "s"}
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_MIXED = {"eval/<group>/<metric>", "eval/oracle/<metric>", "oracle/<member>/<metric>"}
"""Names for what stands under its own entry, with the label ``part``."""


def dashboard() -> str:
    """The dashboard as JSON."""
    content = {
        "title": "raypref",
        "uid": "raypref",
        "tags": ["raypref"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": list(_variables())},
        "panels": list(_panels()),
    }
    return json.dumps(content, indent=1) + "\n"


def _variables() -> Iterator[dict[str, Any]]:
    yield {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"}
    query = f"label_values({family(METRICS[0]).exported}, run)"
    yield {
        "name": "run",
        "type": "query",
        "datasource": _SOURCE,
        "definition": query,
        "query": {"query": query, "refId": "run"},
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "current": {"text": "All", "value": "$__all"},
    }


def _panels() -> Iterator[dict[str, Any]]:
    """Rows of panels; all rows but the first are folded, and a folded row holds its panels."""
    top, number = 0, 0
    for title, entries in _ROWS:
        folded = title != _ROWS[0][0]
        number += 1
        row: dict[str, Any] = {"id": number, "type": "row", "title": title, "collapsed": folded, "panels": []}
        row["gridPos"] = {"x": 0, "y": top, "w": 24, "h": 1}
        top += 1
        panels = []
        for place, entry in enumerate(entry for entry in entries if entry.name not in _MIXED):
            number += 1
            down, right = divmod(place, _ACROSS)
            position = {"x": right * _WIDTH, "y": top + down * _HEIGHT, "w": _WIDTH, "h": _HEIGHT}
            panels.append(_panel(number, entry, position))
        if folded:
            yield row | {"panels": panels}
        else:
            yield row
            yield from panels
            top += _HEIGHT * -(-len(panels) // _ACROSS)


def _panel(number: int, entry: MetricInfo, position: dict[str, int]) -> dict[str, Any]:
    place = family(entry)
    legend = " ".join(f"{{{{{label}}}}}" for label in ("run", *place.labels, "part"))
    defaults: dict[str, Any] = {"unit": _UNITS.get(entry.unit, "short"), "thresholds": _thresholds(entry)}
    if entry.healthy:
        defaults["custom"] = {"thresholdsStyle": {"mode": "area"}}
    return {
        "id": number,
        "type": "timeseries",
        "title": f"{entry.name} ({entry.unit})",
        "description": "\n\n".join(_texts(entry)),
        "datasource": _SOURCE,
        "gridPos": position,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [{"refId": "A", "datasource": _SOURCE, "expr": f'{place.exported}{{run=~"$run"}}', "legendFormat": legend}],
    }


def _texts(entry: MetricInfo) -> Iterator[str]:
    yield entry.definition
    if entry.healthy:
        yield f"Healthy: {entry.healthy_text}."
    if entry.remedy:
        yield entry.remedy


def _thresholds(entry: MetricInfo) -> dict[str, Any]:
    """Bands from below: red under the lowest healthy value, green, red above the highest; transparent where there is no range."""
    lowest, highest = entry.healthy or (None, None)
    steps: list[dict[str, Any]] = [
        {"color": "transparent" if entry.healthy is None else "green" if lowest is None else "red", "value": None}
    ]
    if lowest is not None:
        steps.append({"color": "green", "value": lowest})
    if highest is not None and not (highest == 1.0 and entry.unit in ("share", "probability")):  # no share is above 1
        steps.append({"color": "red", "value": highest})
    return {"mode": "absolute", "steps": steps}
