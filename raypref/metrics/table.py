"""The table of all metrics: what the writer accepts, and what the documentation is generated from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Self

from raypref.metric_info import MetricInfo
from raypref.metrics.groups import GROUP_METRICS
from raypref.metrics.run import RUN_METRICS
from raypref.metrics.training import TRAINING_METRICS

if TYPE_CHECKING:
    from raypref.config import RunConfig

METRICS: tuple[MetricInfo, ...] = (*TRAINING_METRICS, *GROUP_METRICS, *RUN_METRICS)
"""The metrics of raypref itself."""


class MetricTable:
    """Finds the description of a metric by its name."""

    def __init__(self, extra: Iterable[MetricInfo] = ()) -> None:
        """
        Args:
            extra: metrics of third parties, beside raypref's own.
        """
        self._entries = (*METRICS, *extra)
        self._exact = {entry.name: entry for entry in self._entries}

    @classmethod
    def of(cls, config: RunConfig) -> Self:
        """The table of a run: with what its loss, oracle and selection declare (``extra_metrics``)."""
        sections = (config.loss, config.oracle, config.selection)
        return cls(entry for section in sections if section is not None for entry in section.extra_metrics())

    def find(self, name: str) -> MetricInfo | None:
        """The metric's description; None for a name that is not in the table.

        A metric of an ensemble's member (``oracle/judge_1/unparsed``) or of an evaluation (``eval/oracle/unparsed``,
        ``eval/rewards/chosen``) has the description of the metric that its name ends in (``oracle/unparsed``, ``rewards/chosen``).
        """
        if name in self._exact:
            return self._exact[name]
        measured = name.removeprefix("eval/")
        if measured != name and ("/" in measured or measured in self._exact):
            return self.find(measured)
        if name.startswith("oracle/") and name.count("/") > 1:
            return self.find("oracle/" + name.split("/", 2)[2])
        return next((entry for entry in self._entries if entry.matches(name)), None)

    def describe(self, name: str) -> str:
        """Definition, unit, healthy range and remedy in a few lines of Markdown; empty for an unknown name."""
        entry = self.find(name)
        if entry is None:
            return ""
        lines = [entry.definition, f"Unit: {entry.unit}. Kind: {entry.kind}."]
        if entry.healthy is not None:
            lines.append(f"Healthy: {entry.healthy_text}.")
        return "\n\n".join([*lines, *([entry.remedy] if entry.remedy else [])])

    def check(self, names: Iterable[str]) -> None:
        """Refuse names that are not in the table.

        Raises:
            ValueError: naming the first one.
        """
        for name in names:
            if self.find(name) is None:
                raise ValueError(
                    f"metric {name!r} is not in the table of metrics (docs/metrics.md); a loss, oracle or selection declares its own in "
                    f"extra_metrics()"
                )
