"""Figures for plotly.js as plain data. Colours, fonts and grids are those of the page (``templates/report.js``), light or dark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from raypref.report.parts import Plot
from raypref.report.run_directory import RunDirectory
from raypref.report.series import Series

MOST_POINTS = 600
"""Points of a curve; of a longer one, means of neighbouring steps are shown."""
MOST_BOUNDARIES = 30
"""Iterations whose ends are marked in a figure over steps."""
_SMOOTHED_FROM = 30
"""Points from which a curve is shown with its running mean."""


def by_step(
    run: RunDirectory, title: str, curves: dict[str, Series], *, caption: str = "", smooth: bool = True, **layout: Any
) -> Plot | None:
    """Curves over optimiser steps, iterations marked.

    Args:
        run: whose iterations are marked.
        title: of the figure.
        curves: name -> its metric; those that the run does not have are left out.
        caption: what to look for.
        smooth: show the running means of long series, and the series themselves faintly.
        **layout: of plotly's layout.

    Returns:
        None where the run has none of them.
    """
    present = {name: thinned(series) for name, series in curves.items() if series}
    if not present:
        return None
    data: list[dict[str, Any]] = []
    for place, (name, series) in enumerate(present.items()):
        line = {"color": f"colour-{place}", "width": 2}
        if not smooth or len(series.steps) < _SMOOTHED_FROM:
            how = {} if len(series.steps) > 1 else {"mode": "markers"}
            data.append(_line(series.steps, series.values, name, line=line, **how))
            continue
        faint = {"color": f"colour-{place}", "width": 1}
        data.append(_line(series.steps, series.values, name, line=faint, opacity=0.3, showlegend=False, hoverinfo="skip"))
        data.append(_line(series.steps, within_iterations(run, series), name, line=line))
    ends = run.iteration_ends[:-1] if len(run.iteration_ends) <= MOST_BOUNDARIES else ()
    shapes = [_boundary(end + 0.5) for end in ends]
    return Plot(title, data, {"xaxis": {"title": {"text": "step"}}, "shapes": shapes, "showlegend": len(present) > 1} | layout, caption)


def within_iterations(run: RunDirectory, series: Series) -> list[float]:
    """The running mean of a series; no mean reaches over the end of an iteration, where many metrics jump."""
    reach = max(1, len(series.values) // 20)
    if len(run.iteration_ends) > MOST_BOUNDARIES:
        return running_mean(series.values, reach)
    means: list[float] = []
    for number in range(1, run.begun_iterations + 1):
        first, last = run.steps_of(number)
        means += running_mean(series.between(first if number > 1 else 0, last).values, reach)
    return means


def with_intervals(
    title: str,
    curves: dict[str, tuple[list[float], ...]],
    *,
    x: str,
    y: str,
    **layout: Any,
) -> Plot:
    """Points with intervals, joined by lines.

    Args:
        title: of the figure.
        curves: name -> x, y, lower ends, upper ends.
        x, y: titles of the axes.
        **layout: of plotly's layout.
    """
    data = []
    for place, (name, (xs, ys, lows, highs)) in enumerate(curves.items()):
        bars = {
            "type": "data",
            "symmetric": False,
            "array": [high - value for value, high in zip(ys, highs, strict=True)],
            "arrayminus": [value - low for value, low in zip(ys, lows, strict=True)],
            "thickness": 1.5,
        }
        data.append(
            _line(xs, ys, name, mode="lines+markers", cliponaxis=False, error_y=bars, line={"color": f"colour-{place}", "width": 2})
        )
    axes = {"xaxis": {"title": {"text": x}}, "yaxis": {"title": {"text": y}}, "showlegend": len(curves) > 1}
    return Plot(title, data, axes | layout)


def bars(title: str, groups: Mapping[str, Sequence[float]], labels: Sequence[str], unit: str, **layout: Any) -> Plot:
    """Grouped bars: a bar for each label in each group."""
    data: list[dict[str, Any]] = [
        {"type": "bar", "name": name, "x": list(labels), "y": _finite(values), "marker": {"color": f"colour-{place}"}}
        for place, (name, values) in enumerate(groups.items())
    ]
    axes = {"xaxis": {"type": "category"}, "yaxis": {"title": {"text": unit}}, "barmode": "group", "showlegend": len(groups) > 1}
    return Plot(title, data, axes | layout)


def spans(title: str, rows: dict[str, list[tuple[float, float]]], unit: str, **layout: Any) -> Plot:
    """Intervals of time on a line per row.

    Args:
        title: of the figure.
        rows: name -> begin and end of each interval.
        unit: of the time.
        **layout: of plotly's layout.
    """
    data: list[dict[str, Any]] = [
        {
            "type": "bar",
            "orientation": "h",
            "name": name,
            "y": [name] * len(intervals),
            "base": [round(begin, 3) for begin, _ in intervals],
            "x": [round(end - begin, 3) for begin, end in intervals],
            "marker": {"color": f"colour-{place}", "line": {"width": 0}},
            "hovertemplate": "%{y}: from %{base:.1f}, for %{x:.1f} " + unit + "<extra></extra>",
        }
        for place, (name, intervals) in enumerate(rows.items())
    ]
    axes = {
        "xaxis": {"title": {"text": unit}},
        "yaxis": {"autorange": "reversed", "type": "category"},
        "barmode": "overlay",
        "showlegend": False,
        "height": 110 + 26 * len(rows),
    }
    return Plot(title, data, axes | layout, wide=True)


def thinned(series: Series) -> Series:
    """The series, or the means of as many equal parts as a figure shows points."""
    size = -(-len(series.steps) // MOST_POINTS)
    if size <= 1:
        return series
    starts = range(0, len(series.steps), size)
    return Series(
        series.name,
        tuple(series.steps[min(start + size // 2, len(series.steps) - 1)] for start in starts),
        tuple(math.fsum(part) / len(part) for start in starts if (part := series.values[start : start + size])),
    )


def running_mean(values: Sequence[float], reach: int) -> list[float]:
    """Each value's mean with up to ``reach`` neighbours on either side."""
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    size = len(values)
    return [
        (sums[min(size, k + reach + 1)] - sums[max(0, k - reach)]) / (min(size, k + reach + 1) - max(0, k - reach)) for k in range(size)
    ]


def _line(xs: Sequence[float], ys: Sequence[float], name: str, **how: Any) -> dict[str, Any]:
    return {"type": "scatter", "mode": "lines", "name": name, "x": list(xs), "y": _finite(ys)} | how


def _finite(values: Sequence[float]) -> list[float | None]:
    """JSON has no NaN; a gap is shown in its place."""
    return [float(f"{value:.6g}") if math.isfinite(value) else None for value in values]


def _boundary(step: float) -> dict[str, Any]:
    return {"type": "line", "x0": step, "x1": step, "y0": 0, "y1": 1, "yref": "paper", "line": {"color": "rule", "width": 1, "dash": "dot"}}


def level_line(value: float) -> dict[str, Any]:
    """A shape: a horizontal line at a value, such as one half."""
    return {"type": "line", "x0": 0, "x1": 1, "xref": "paper", "y0": value, "y1": value, "line": {"color": "rule", "width": 1}}
