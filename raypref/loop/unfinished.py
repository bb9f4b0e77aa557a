"""The iteration that a run is resumed in: it starts anew, but the steps before the checkpoint are not taken again.

The engines and the references hold pi_t, the policy of the iteration's start; only the learner is ahead. The journal gives the groups of
the iteration out again, batches are formed from them in the same order, and as many as were trained are passed over. Then the learner loads
what they led to.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from raypref.errors import DataError
from raypref.loop.batch_stream import Batch
from raypref.loop.held_out_loss import HeldOutLoss
from raypref.metrics.writer import RunMeter
from raypref.output.checkpoint import RunState
from raypref.roles import LearnerRole
from raypref.types import Slice


class UnfinishedIteration:
    """What a checkpoint within an iteration says of it."""

    def __init__(self, checkpoint: Path, state: RunState) -> None:
        """
        Args:
            checkpoint: within the iteration.
            state: at its time.
        """
        self._checkpoint = checkpoint
        self.state = state

    async def pass_over(self, batches: AsyncIterator[Batch], *, learner: LearnerRole, held_out: HeldOutLoss, meter: RunMeter) -> None:
        """Form the batches that were trained before, and load what they led to.

        Args:
            batches: of the iteration, from its first one.
            learner: loads the checkpoint.
            held_out: is told the epochs.
            meter: measures the time, and forgets the groups.

        Raises:
            DataError: these are other batches.
        """
        taken, groups = 0, 0
        while taken < self.state.steps_within and (batch := await anext(batches, None)) is not None:
            taken, groups = taken + 1, batch.groups_taken
            held_out.passed_over(batch.epoch)
        if (taken, groups) != (self.state.steps_within, self.state.groups_within):
            raise DataError(
                f"--resume: {self._checkpoint} was written after {self.state.steps_within} steps of its iteration, which took "
                f"{self.state.groups_within} groups, but now {taken} steps take {groups}: groups were lost from the journal and have been "
                "sampled or judged anew, with another result. Remove this checkpoint: --resume then continues from the one before"
            )
        meter.forget_groups()
        with meter.stage("load"):
            await learner.load(self._checkpoint / "learner")

    def scoring(self, process: Callable[..., Awaitable[Slice]], epochs: int) -> Callable[[Any], Awaitable[Slice]]:
        """``process``, told for each item whether its examples need frozen log-probs (``scored``).

        Those of the groups that were trained do not; the last of them may belong to the next batch, too, and further epochs need all.

        Args:
            process: turns one item into its examples; called in the order of the items.
            epochs: passes over the iteration's examples.
        """
        positions: Iterator[int] = itertools.count()
        first = self.state.groups_within - 1 if epochs == 1 else 0
        return lambda item: process(item, scored=next(positions) >= first)
