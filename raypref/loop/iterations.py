"""Which part of the run's data each iteration takes, and how many optimiser steps it has."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from raypref.config import RunConfig
from raypref.errors import DataError
from raypref.output.checkpoint import RunState
from raypref.seeds import seed_for
from raypref.types import Example, Prompt, RunData

logger = logging.getLogger(__name__)


def due(config: RunConfig, iteration: int, *, every: int | None, every_steps: int | None) -> bool:
    """Whether something happens after ``iteration`` iterations: at each multiple of an interval, and at the end of the run.

    Args:
        config: of the run.
        iteration: 0 before the first.
        every: iterations between two times; None or 0: one.
        every_steps: optimiser steps between two times, in place of ``every``. The time is the first sync at or after a multiple of it.
    """
    if iteration == config.iterations:
        return True
    steps = config.steps_per_iteration
    if every_steps is None or steps is None:
        return not iteration % (every or 1)
    return iteration * steps // every_steps > (iteration - 1) * steps // every_steps


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
        return self._config.loop.prompts_per_iteration or len(self._data.items) // self._config.iterations

    def items_used(self, taken: int) -> int:
        """By how many items the cursor moves on after an iteration whose batches took the first ``taken`` of them.

        Without a sync interval by all of the iteration's items: those behind the last batch were dropped.
        """
        return taken if self._config.loop.sync_interval is not None else self.items_per_iteration()

    def steps(self) -> int:
        """Optimiser steps of an iteration if no group is dropped: the horizon of the learning rate's schedule."""
        config = self._config
        if config.steps_per_iteration is not None:
            return config.steps_per_iteration
        return -(-self.items_per_iteration() * self.max_examples() // config.learner.global_batch) * config.learner.epochs

    def groups(self) -> int:
        """Prompts that an iteration samples if no group is dropped; 0 for given data."""
        if not self._data.sampled:
            return 0
        interval = self._config.loop.sync_interval
        return self.items_per_iteration() if interval is None else -(-interval * self._config.learner.global_batch // self.max_examples())

    def epoch_seeds(self, iteration: int) -> list[int]:
        """The seed of the order of the examples in each epoch of an iteration after its first."""
        return [seed_for(self._config.seed, "epoch", iteration, str(epoch)) for epoch in range(1, self._config.learner.epochs)]

    def no_example(self, state: RunState, checkpoints: Path) -> DataError:
        """The error of an iteration without a training example.

        Args:
            state: at its start.
            checkpoints: the directory in which the policy was saved.
        """
        return DataError(
            f"data: iteration {state.iteration + 1} (after step {state.step}) has no training example: the prompts are used up, or every "
            f"group was dropped (oracle/dropped in metrics.jsonl); the policy of the iterations before is in {checkpoints}"
        )

    def note_missing_steps(self, state: RunState) -> None:
        """Log that the last iteration ended early. It takes the steps of ``loop.sync_interval`` only if enough groups are kept."""
        steps = self._config.iterations * (self._config.steps_per_iteration or 0)
        if state.step < steps:
            logger.warning("the data was used up after step %d of %d: groups were dropped (oracle/dropped)", state.step, steps)

    def moment(self, state: RunState) -> str:
        """How far the run is, in words: ``iteration 2, after step 7``."""
        if state.iteration < self._config.iterations:
            return f"iteration {state.iteration + 1}, after step {state.step}"
        return f"after the last iteration, step {state.step}"

    def max_examples(self) -> int:
        """Largest number of examples per item."""
        selection = self._config.selection
        return 1 if selection is None or not self._data.sampled else selection.examples_at_most(self._config.rollout.responses)
