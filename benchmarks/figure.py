"""What a benchmark reports: a ratio of two things measured in turns in one run, medians of several samples."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Figure:
    """What a benchmark found. A larger ratio is always better."""

    name: str
    ratio: float
    bar: float
    """The ratio that is asked for."""
    unit: str
    """What the ratio is of."""
    samples: int
    """On each side."""

    def line(self) -> dict[str, Any]:
        return asdict(self) | {"ratio": round(self.ratio, 3)}
