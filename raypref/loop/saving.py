"""When the policy is saved, and what a checkpoint of it holds."""

from __future__ import annotations

import asyncio
import logging
import shutil
from pathlib import Path

from raypref.config import RunConfig
from raypref.errors import ActorFailed
from raypref.loop.iterations import due
from raypref.output.checkpoint import Checkpoints, RunState
from raypref.output.numbered import by_number, iteration_name, number_in
from raypref.output.outcome import Outcome
from raypref.roles import LearnerRole

logger = logging.getLogger(__name__)


class Saving:
    """Saves the policy of a run after, and within, the iterations that ``checkpoint`` says, and after the last one."""

    def __init__(self, config: RunConfig, learner: LearnerRole, checkpoints: Checkpoints) -> None:
        self._config = config
        self._learner = learner
        self._checkpoints = checkpoints
        self.newest = 0
        """The iteration of the newest checkpoint; 0: the run would be repeated from its start."""
        self.trained: RunState | None = None
        """At the end of the newest iteration; until the next step the learner holds its policy."""
        self.newest_within: RunState | None = None
        """Of the newest checkpoint within an iteration."""

    def due(self, state: RunState) -> bool:
        """Whether the policy of ``state`` is to be saved now; the base policy never is."""
        if state.iteration in (0, self.newest):
            return False
        return due(self._config, state.iteration, every=None, every_steps=self._config.checkpoint.every_steps)

    def due_within(self, state: RunState) -> bool:
        """Whether the learner is to be saved now, before a step of an iteration."""
        every = self._config.checkpoint.every_steps
        if every is None or not state.steps_within or state == self.newest_within:
            return False
        return self._config.saves_within_iterations and state.step % every == 0

    async def save_within(self, state: RunState, outcome: Outcome) -> None:
        """Save the learner's state within an iteration."""
        await self._write(state)
        self.newest_within = state
        self._checkpoints.commit(state, evaluations=outcome.evaluations, held_out=outcome.held_out)

    async def save(self, state: RunState, outcome: Outcome) -> None:
        """Save the learner's state; the checkpoint is complete then. Then write the policy as a model directory."""
        await self._write(state)
        self.newest = state.iteration
        self.commit(state, outcome)
        if self._config.checkpoint.policies:
            await self._write_policy(state)

    async def resume(self, state: RunState) -> None:
        """The learner holds the policy of this state again. Write a checkpoint's model directory if the run before ended first."""
        self.newest = state.iteration
        if self._config.checkpoint.policies and state.iteration and not self._policy_directory(state).exists():
            await self._write_policy(state)

    def _policy_directory(self, state: RunState) -> Path:
        return self._config.output_dir / "policies" / iteration_name(state.iteration)

    async def _write(self, state: RunState) -> None:
        await self._learner.save(self._checkpoints.begin(state) / "learner")
        await asyncio.to_thread(self._checkpoints.complete_files, state)

    async def _write_policy(self, state: RunState) -> None:
        """A directory appears under its name only when it is complete."""
        final = self._policy_directory(state)
        policies = final.parent
        partial = policies / ".partial"
        shutil.rmtree(partial, ignore_errors=True)
        await self._learner.export(partial)
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        for old in by_number(policies.glob("iteration_*"))[: -self._config.checkpoint.policies]:
            shutil.rmtree(old)

    def oldest(self) -> int:
        """The iteration of the oldest checkpoint on disk, from which the run may be continued, too; 0: there is none."""
        complete = self._checkpoints.complete()
        return (number_in(complete[0].name) or 0) if complete else 0

    async def rescue(self, state: RunState, outcome: Outcome, error: BaseException) -> None:
        """Before the run ends with an error: save the policy if it is that of a finished iteration, and the learner did not fail."""
        learner_failed = isinstance(error, ActorFailed) and any(actor.startswith("learner") for actor in error.actors)
        if learner_failed or state != self.trained or state.iteration == self.newest:
            return
        try:
            await self.save(state, outcome)
        except Exception:  # the error that ends the run is the first cause
            logger.exception("the policy of iteration %d could not be saved", state.iteration)
        else:
            logger.warning("the policy of iteration %d was saved before the run ended", state.iteration)

    def commit(self, state: RunState, outcome: Outcome) -> None:
        """Mark the checkpoint as complete, with the evaluations so far; nothing if the policy of ``state`` was not saved."""
        if self.newest == state.iteration > 0:
            self._checkpoints.commit(state, evaluations=outcome.evaluations, held_out=outcome.held_out)
