"""How long a call may take: a multiple of what calls of its kind have taken."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Self

REMEMBERED = 31
"""Calls of a kind whose median counts, the newest ones."""
LEAST = 3
"""Calls of a kind before their median counts."""


@dataclass(slots=True)
class _Kind:
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    usual_s: float | None = None
    """The multiple of the median; None where calls have been added since it was computed."""


class CallTimes:
    """The durations of past calls by kind (``oracle: judge``), and the time limits that follow."""

    def __init__(
        self, ceiling_s: float, floor_s: float, multiple: float, first_s: Mapping[str, float | None] = MappingProxyType({})
    ) -> None:
        """
        Args:
            ceiling_s: no call may take longer.
            floor_s: every call may take as long.
            multiple: of the median.
            first_s: role, or one kind -> limit of the first calls of each of its kinds; ``ceiling_s`` where there is none.
        """
        self.ceiling_s = ceiling_s
        self._floor_s = min(floor_s, ceiling_s)
        self._multiple = multiple
        self._first_s = {calls: min(limit_s, ceiling_s) for calls, limit_s in first_s.items() if limit_s is not None}
        self._kinds: dict[str, _Kind] = {}

    @classmethod
    def fixed(cls, limit_s: float) -> Self:
        """The same limit for every call."""
        return cls(limit_s, limit_s, 1.0)

    @property
    def floor_s(self) -> float:
        """Seconds that every call may take."""
        return self._floor_s

    def add(self, kind: str, seconds: float) -> None:
        """Note how long a call took."""
        if (entry := self._kinds.get(kind)) is None:
            entry = self._kinds[kind] = _Kind()
        entry.seconds.append(seconds)
        entry.usual_s = None

    def limit_of(self, kind: str) -> Callable[[], float]:
        """The same as a function. A call that began before anything was known of its kind then has the limit of the later ones."""
        return partial(self.limit, kind)

    def limit(self, kind: str, ceiling_s: float | None = None) -> float:
        """Seconds that a call of this kind may take.

        Args:
            kind: of the call.
            ceiling_s: of this kind, in place of that of all calls.
        """
        ceiling_s = self.ceiling_s if ceiling_s is None else ceiling_s
        entry = self._kinds.get(kind)
        if entry is None or len(entry.seconds) < LEAST:
            return self._first_s.get(kind, self._first_s.get(kind.partition(":")[0], ceiling_s))
        if entry.usual_s is None:
            entry.usual_s = round(self._multiple * statistics.median(entry.seconds), 1)
        return min(ceiling_s, max(self._floor_s, entry.usual_s))
