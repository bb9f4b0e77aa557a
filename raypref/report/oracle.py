"""The section of the report about the oracle: whether its preferences have cycles, ties, a taste for length or for a place; its cost."""

from __future__ import annotations

import math

from raypref.metric_info import MetricInfo
from raypref.metrics.table import MetricTable
from raypref.report.curves import ORACLE, plots_of
from raypref.report.parts import Cell, Note, Section, Table, shown
from raypref.report.run_directory import RunDirectory

MOST_COLUMNS = 8
"""Iterations shown in a table: the first, the last, and some between them."""


def oracle(run: RunDirectory) -> Section:
    """Curves and a table of the oracle's metrics."""
    kind = run.setting("oracle.type")
    intro = f"Type {kind}. Means over the groups that were judged since the step before."
    names = [series.name for series in run.under("oracle/")]
    if not names:
        return Section("oracle", "Oracle", intro, [Note("No group was judged so far, or the run trains on given data.")])
    return Section("oracle", "Oracle", intro, [*plots_of(run, ORACLE), _table(run, names)])


def _table(run: RunDirectory, names: list[str]) -> Table:
    """Mean of each metric by iteration; what is outside its healthy range is marked."""
    table = MetricTable() if run.config is None else MetricTable.of(run.config)
    numbers = chosen(run.begun_iterations, MOST_COLUMNS)
    rows: list[list[str | Cell]] = []
    for name in names:
        entry = table.find(name)
        total = entry is not None and entry.kind == "total since start"
        values = _totals(run, name) if total else run.by_iteration(name)
        cells = [Cell(shown(values[number - 1]), "warning" if outside(values[number - 1], entry) else "plain") for number in numbers]
        rows.append([name, *cells, entry.healthy_text if entry is not None else ""])
    headings = ("metric", *(f"iteration {number}" for number in numbers), "healthy")
    return Table("The oracle by iteration", headings, rows, "What is outside its healthy range is marked; docs/metrics.md says what to do.")


def _totals(run: RunDirectory, name: str) -> list[float]:
    """The newest value in each iteration."""
    values = []
    for number in range(1, run.begun_iterations + 1):
        part = run.series(name).between(*run.steps_of(number))
        values.append(part.last if part else float("nan"))
    return values


def outside(value: float, entry: MetricInfo | None) -> bool:
    """Whether a value is outside the healthy range of its metric."""
    if entry is None or entry.healthy is None or math.isnan(value):
        return False
    lowest, highest = entry.healthy
    return (lowest is not None and value < lowest) or (highest is not None and value > highest)


def chosen(count: int, most: int) -> list[int]:
    """At most ``most`` of the numbers from 1 to ``count``: the first, the last, and evenly spaced ones between them."""
    if count <= most:
        return list(range(1, count + 1))
    return sorted({1 + round(k * (count - 1) / (most - 1)) for k in range(most)})
