"""How often a run that failed goes on by itself, and what the report says of it."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from raypref.errors import ActorFailed, NetworkError, PlacementError, RayprefError, RunFailed
from raypref.output.config import CheckpointConfig

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass
class Restarts:
    """The restarts of one run in this process."""

    config: CheckpointConfig
    entries: list[dict[str, Any]] = field(default_factory=list)
    """When, after what, and from where; for ``summary.json``."""
    _finished: int | None = None
    """Iterations that were finished when the run failed last, or began; None: it has not begun. A start that fails would fail again."""
    _count: int = 0
    """Failures since the last finished iteration."""

    def until_it_ends(self, begin: Callable[[], T], go_on: Callable[[], T]) -> T:
        """The result of the first attempt that does not fail.

        Args:
            begin: the first attempt.
            go_on: each further one; it resumes the run.

        Raises:
            RunFailed: the last attempt's, where another one would not help or there were enough.
            PlacementError, NetworkError: the first attempt's.
        """
        attempt = begin
        while True:
            try:
                return attempt()
            except (RunFailed, PlacementError, NetworkError) as error:
                if not self._may_go_on(error):
                    if isinstance(error, RunFailed) or self._finished is None:
                        raise
                    raise RunFailed(f"{error}\nthe cluster held the run before; --resume continues when it can again") from error
                wait_s = self.config.wait_s(self._count)
                logger.warning("%s\nrestart %d of %d in %.0f s", error, self._count, self.config.restarts, wait_s)
                self.entries.append({"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "after": str(error).splitlines()[0]})
                time.sleep(wait_s)
                attempt = go_on

    @contextlib.contextmanager
    def counting(self, iteration: Callable[[], int]) -> Iterator[None]:
        """While the run is in the block it has begun; failures are counted from its last finished iteration.

        Args:
            iteration: how many are finished.
        """
        try:
            yield
        finally:
            if self._finished is None or iteration() > self._finished:
                self._finished, self._count = iteration(), 0

    def _may_go_on(self, error: RayprefError) -> bool:
        mendable = isinstance(error.__cause__, ActorFailed) if isinstance(error, RunFailed) else isinstance(error, NetworkError)
        self._count += 1
        return mendable and self._finished is not None and self._count <= self.config.restarts
