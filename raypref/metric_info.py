"""The description of one metric. A third party's loss, oracle or selection describes its own metrics with it (``extra_metrics``)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Kind = Literal["last value", "mean over groups", "total since start"]
"""How the value written at a step follows from what was observed.

``last value``: computed for this step or iteration. ``mean over groups``: the mean over the groups judged since the last step.
``total since start``: the sum since the run was started or resumed; the code gives it as ``raypref.types.Total``.
"""


@dataclass(frozen=True, slots=True)
class MetricInfo:
    """What a metric means, and what to do if it leaves its healthy range."""

    name: str
    """As written. ``<text>`` stands for any text without a slash: ``time/<stage>_s``."""
    definition: str
    unit: str
    kind: Kind = "last value"
    healthy: tuple[float | None, float | None] | None = None
    """(lowest, highest); None: no limit on that side, or no range that holds for every run."""
    remedy: str = ""
    """What to do outside the healthy range, or what to compare the metric with."""
    critical: tuple[float | None, float | None] | None = None
    """(lowest, highest), wider than ``healthy``: outside it the run is hardly worth its cost."""
    drift: tuple[float | None, float | None] | None = None
    """(lowest, highest) healthy ratio to the metric's first values in the run."""

    @property
    def healthy_text(self) -> str:
        """The healthy range in words: ``0.5 to 1``, ``at least 0``; empty without one."""
        return range_text(self.healthy)

    def matches(self, name: str) -> bool:
        """Whether ``name`` is this metric's name, or fits its pattern."""
        if "<" not in self.name:
            return name == self.name
        parts = re.split(r"<\w+>", self.name)
        return re.fullmatch("[^/]+".join(map(re.escape, parts)), name) is not None


def range_text(limits: tuple[float | None, float | None] | None) -> str:
    """A range in words: ``0.5 to 1``, ``at least 0``; empty for None."""
    lowest, highest = limits or (None, None)
    if lowest is not None and highest is not None:
        return f"{lowest:g}" if lowest == highest else f"{lowest:g} to {highest:g}"
    return f"at least {lowest:g}" if lowest is not None else f"at most {highest:g}" if highest is not None else ""
