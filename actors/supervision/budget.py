"""How many failures of a kind a run puts up with, and how long it waits after each."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable

FIRST_WAIT_S = 1.0
"""Before the second restart of a kind within the window; each further one waits twice as long. The first one is immediate."""
LONGEST_WAIT_S = 60.0


class Budget:
    """Counts failures by kind within a window of time."""

    def __init__(self, most: int, window_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            most: failures of each kind within the window.
            window_s: length of the window, in seconds.
            clock: in seconds.
        """
        self.most = most
        self.window_s = window_s
        self._clock = clock
        self._times: defaultdict[str, deque[float]] = defaultdict(deque)

    def take(self, kind: str) -> float | None:
        """Count one failure: the seconds to wait before what it needs is done; None where the budget is used up."""
        times, now = self._times[kind], self._clock()
        while times and now - times[0] >= self.window_s:
            times.popleft()
        if len(times) >= self.most:
            return None
        times.append(now)
        return 0.0 if len(times) == 1 else float(min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** (len(times) - 2)))

    def give_back(self, kind: str, count: int) -> None:
        """Undo the newest ``count`` failures: they turned out to be of another kind."""
        for _ in range(min(count, len(self._times[kind]))):
            self._times[kind].pop()
