"""What a benchmark reports: the ratio of two measurements that took turns in one run, as medians of several samples."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """The result of a benchmark. A larger ratio is always better."""

    name: str
    ratio: float
    bar: float
    """The ratio that is asked for."""
    unit: str
    """The two things that the ratio compares, with their values."""
    samples: int
    """Number of measurements on each side."""

    def show(self) -> None:
        """Print it as one JSON line."""
        print(json.dumps(asdict(self) | {"ratio": round(self.ratio, 3)}), flush=True)
