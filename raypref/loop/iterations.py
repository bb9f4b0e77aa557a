"""Which part of the run's data each iteration takes, and how many optimiser steps it has."""

from __future__ import annotations

from collections.abc import Iterator

from raypref.config import RunConfig
from raypref.types import Example, Prompt, RunData


class Iterations:
    """Divides the run's items (prompts, or given examples) among its iterations."""

    def __init__(self, config: RunConfig, data: RunData) -> None:
        self._config = config
        self._data = data

    def items(self, cursor: int) -> Iterator[Prompt | Example]:
        """The items that the iteration which starts at ``cursor`` may take.

        Without a sync interval these are ``items_per_iteration``; with one, all that are left, of which it takes what its steps need.
        """
        end = None if self._config.loop.sync_interval else cursor + self.items_per_iteration()
        return iter(self._data.items[cursor:end])

    def items_per_iteration(self) -> int:
        """Items of one iteration without a sync interval: as configured, or an equal part of the data."""
        return self._config.loop.prompts_per_iteration or len(self._data.items) // self._config.loop.iterations

    def items_used(self, taken: int) -> int:
        """By how many items the cursor moves on after an iteration whose batches took the first ``taken`` of them.

        Without a sync interval by all of the iteration's items: those behind the last batch were dropped.
        """
        return taken if self._config.loop.sync_interval is not None else self.items_per_iteration()

    def steps(self) -> int:
        """Optimiser steps of an iteration if no group is dropped: the horizon of the learning rate's schedule."""
        config = self._config
        if config.loop.sync_interval is not None:
            return config.loop.sync_interval * config.learner.epochs
        return -(-self.items_per_iteration() * self.max_examples() // config.learner.global_batch) * config.learner.epochs

    def max_examples(self) -> int:
        """Largest number of examples per item."""
        selection = self._config.selection
        return 1 if selection is None or not self._data.sampled else selection.examples_at_most(self._config.rollout.responses)
