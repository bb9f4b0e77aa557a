"""What a benchmark reports: a ratio of two things measured in turns in one run, medians of several samples."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass


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

    def show(self) -> None:
        """Print it as one JSON line."""
        print(json.dumps(asdict(self) | {"ratio": round(self.ratio, 3)}), flush=True)
