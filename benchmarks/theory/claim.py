"""A claim of a paper, and the value measured for it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Claim:
    """``value`` was measured; the paper says that it is at most, or at least, ``bound``."""

    name: str
    """method/what is claimed/where"""
    value: float
    bound: float | None = None
    """None: reported only, such as a slope."""
    relation: Literal["<=", ">="] = "<="

    @property
    def holds(self) -> bool | None:
        """False for NaN; None where nothing is claimed."""
        if self.bound is None:
            return None
        return self.value <= self.bound if self.relation == "<=" else self.value >= self.bound

    def line(self) -> str:
        """One JSON object on one line."""
        value = self.value if math.isfinite(self.value) else None
        return json.dumps({"name": self.name, "value": value, "relation": self.relation, "bound": self.bound, "holds": self.holds})
