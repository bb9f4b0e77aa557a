"""What an iteration takes of the run's data, and how many steps it has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from raypref.config import RunConfig
from raypref.types import RunData


class Iterations:
    """The run's prompts (or given examples), in iterations."""

    def __init__(self, config: RunConfig, data: RunData) -> None:
        self._config = config
        self._data = data

    def items(self, cursor: int) -> Iterator[Any]:
        """What the iteration that starts at ``cursor`` may take: a share, or, with a sync interval, as much as its steps need."""
        count = None if self._config.loop.sync_interval else self.share()
        return iter(self._data.items[cursor : None if count is None else cursor + count])

    def share(self) -> int:
        """Prompts, or given examples, of one iteration, where the config says how many or splits them evenly."""
        return self._config.loop.prompts_per_iteration or len(self._data.items) // self._config.loop.iterations

    def used(self, taken: int) -> int:
        """Items that are used up by an iteration whose batches took the first ``taken``: a share is, to its end."""
        return taken if self._config.loop.sync_interval is not None else self.share()

    def steps(self) -> int:
        """Optimiser steps of an iteration when no group is dropped: the schedule's horizon."""
        config = self._config
        if config.loop.sync_interval is not None:
            return config.loop.sync_interval * config.learner.epochs
        return -(-self.share() * self.examples_at_most() // config.learner.global_batch) * config.learner.epochs

    def examples_at_most(self) -> int:
        """Of one prompt's group; a given example is one."""
        selection = self._config.selection
        return 1 if selection is None or not self._data.sampled else selection.examples_at_most(self._config.rollout.responses)
