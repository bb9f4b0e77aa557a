"""One metric of a run over its steps."""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Series:
    """One metric over the run."""

    name: str
    steps: tuple[int, ...]
    """Optimiser steps, ascending, each once."""
    values: tuple[float, ...]
    """The last value written at each step."""

    def __bool__(self) -> bool:
        return bool(self.steps)

    @property
    def last(self) -> float:
        return self.values[-1]

    def between(self, first: int, last: int) -> Series:
        """The part at steps from ``first`` to ``last``, both included."""
        inside = slice(bisect.bisect_left(self.steps, first), bisect.bisect_right(self.steps, last))
        return replace(self, steps=self.steps[inside], values=self.values[inside])

    @property
    def mean(self) -> float:
        """Of all values; NaN without one."""
        return math.fsum(self.values) / len(self.values) if self.values else float("nan")
