"""When the policy is saved, what a checkpoint of it holds, and how it is written while training goes on.

    save        the learner copies its state while training goes on, up to the next change of it
    publish     when every rank has written its files: manifest, ``state.json``, removal of old checkpoints

One checkpoint is written at a time: the next one waits for it, and so does the end of the run.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from raypref.config import RunConfig
from raypref.errors import ActorFailed
from raypref.loop.iterations import due
from raypref.output.best import Best, best_of
from raypref.output.checkpoint import Checkpoints, RunState
from raypref.output.numbered import number_in
from raypref.output.outcome import Outcome
from raypref.output.policies import Policies
from raypref.roles import LearnerRole

logger = logging.getLogger(__name__)

_FIRST_S, _LONGEST_S = 0.02, 0.5
"""Between two questions whether a checkpoint is written."""


@dataclass
class _Open:
    """The newest checkpoint, and how far it is."""

    state: RunState
    content: dict[str, Any]
    """What ``state.json`` will hold beside the state."""
    with_policy: bool
    """Whether the policy is written, too."""
    written: bool = False
    """Whether every rank has written its part."""
    complete: bool = False
    published: asyncio.Future[None] = field(init=False)


class Saving:
    """Saves the policy of a run after, and within, the iterations that ``checkpoint`` says, and after the last one."""

    def __init__(
        self, config: RunConfig, learner: LearnerRole, checkpoints: Checkpoints, stage: Callable[[str], AbstractContextManager[None]]
    ) -> None:
        """
        Args:
            config: of the run.
            learner: whose state is saved.
            checkpoints: of the run.
            stage: measures the time of a stage.
        """
        self._config = config
        self._learner = learner
        self._checkpoints = checkpoints
        self._stage = stage
        self._policies = Policies(config.output_dir / "policies", config.checkpoint.policies)
        self._open: _Open | None = None
        self.newest = 0
        """The iteration of the newest checkpoint, complete or not; 0: the run would be repeated from its start."""
        self.trained: RunState | None = None
        """At the end of the newest iteration; until the next step the learner holds its policy."""
        self.newest_within: RunState | None = None
        """Of the newest checkpoint within an iteration."""

    def due(self, state: RunState) -> bool:
        """Whether the policy of ``state`` is to be saved now; the base policy never is."""
        if state.iteration in (0, self.newest):
            return False
        return due(self._config, state.iteration, every=None, every_steps=self._config.checkpoint.every_steps)

    async def before_step(self, state: RunState, outcome: Outcome) -> None:
        """Save the learner's state within an iteration, if that is due. Raises what went wrong with the checkpoint that is open."""
        if self._open is not None and self._open.published.done():
            self._open.published.result()
        every = self._config.checkpoint.every_steps
        if every is None or not self._config.saves_within_iterations or not state.steps_within or state == self.newest_within:
            return
        if state.step % every == 0:
            await self._save_within(state, outcome)

    async def _save_within(self, state: RunState, outcome: Outcome) -> None:
        """Save the learner's state within an iteration; the policy as a model directory, too, if it is the best so far."""
        await self.finish()
        best, loss = self._best(outcome.evaluations, outcome.held_out), None
        if self._config.checkpoint.best and not outcome.evaluations and outcome.held_out and outcome.held_out[-1]["step"] == state.step:
            loss = outcome.held_out[-1]["loss"]
        best_so_far = loss is not None and (best is None or loss <= best.value)
        await self._begin(state, outcome, policy=best_so_far)

    async def save(self, state: RunState, outcome: Outcome) -> None:
        """Save the learner's state, and the policy as a model directory."""
        await self._begin(state, outcome, policy=True)

    async def finish(self) -> None:
        """Return when the checkpoint that is open is complete. Raises what went wrong with it."""
        if self._open is not None:
            await asyncio.shield(self._open.published)
            await asyncio.to_thread(self._prune, self._open.content)

    async def resume(self, state: RunState) -> None:
        """The learner holds the policy of this state again. Write a checkpoint's model directory if the run before ended first."""
        self.newest = state.iteration
        name = self._checkpoints.path(state).name
        if self._policies.keep and state.iteration and self._policies.find(name) is None:
            await self._learner.export(self._policies.begin())
            self._policies.commit(name)

    async def _begin(self, state: RunState, outcome: Outcome, *, policy: bool) -> None:
        """Have the learner copy its state, and publish it in the background. The checkpoint before is complete first.

        Once the learner was asked this is the newest checkpoint, also if the run ends meanwhile: it writes in any case.
        """
        with_policy = policy and self._policies.keep > 0
        with self._stage("checkpoint"):
            await self.finish()
            place = self._policies.begin() if with_policy else None
            copied = asyncio.ensure_future(self._learner.save(self._checkpoints.begin(state) / "learner", place))
            self._open = _Open(state, _content(outcome), with_policy)
            self._open.published = asyncio.ensure_future(self._publish(self._open, copied))
            if state.steps_within:
                self.newest_within = state
            else:
                self.newest = state.iteration
            await asyncio.wait([copied])
            copied.result()

    async def _publish(self, checkpoint: _Open, copied: asyncio.Future[None]) -> None:
        await copied
        with self._stage("checkpoint_write"):
            pause_s = _FIRST_S
            while not await self._learner.saved():
                await asyncio.sleep(pause_s)
                pause_s = min(_LONGEST_S, 2 * pause_s)
            checkpoint.written = True
            await asyncio.to_thread(self._checkpoints.complete_files, checkpoint.state)
            self._checkpoints.commit(checkpoint.state, **checkpoint.content)
            checkpoint.complete = True
            if checkpoint.with_policy:
                self._policies.commit(self._checkpoints.path(checkpoint.state).name)
            await asyncio.to_thread(self._prune, checkpoint.content)

    def _best(self, evaluations: Sequence[Mapping[str, Any]], held_out: Sequence[Mapping[str, Any]]) -> Best | None:
        return best_of(self._checkpoints.complete(), evaluations, held_out) if self._config.checkpoint.best else None

    def _prune(self, content: Mapping[str, Any]) -> None:
        """Remove old checkpoints and policies, but not the best."""
        best = self._best(**content)
        self._checkpoints.prune(None if best is None else best.checkpoint)
        self._policies.prune(None if best is None else best.checkpoint.name)

    async def end(self, outcome: Outcome) -> None:
        """Complete what is open, and note in the outcome which checkpoint is the best."""
        with self._stage("checkpoint"):
            await self.finish()
        if (best := self._best(outcome.evaluations, outcome.held_out)) is not None:
            policy = self._policies.find(best.checkpoint.name)
            outcome.best = {**best.entry(), "policy": None if policy is None else str(policy)}

    def iterations(self) -> set[int]:
        """After how many iterations the run may be continued from a checkpoint on disk."""
        return {number_in(path.name) or 0 for path in self._checkpoints.complete()}

    async def rescue(self, state: RunState, outcome: Outcome, error: BaseException) -> None:
        """Before the run ends with an error: complete what is open, and save the policy if it is that of a finished iteration. If the
        learner failed only what it has written is completed."""
        learner_failed = isinstance(error, ActorFailed) and any(actor.startswith("learner") for actor in error.actors)
        unsaved = state == self.trained and state.iteration != self.newest
        if learner_failed and self._open is not None and not self._open.written:
            name = self._checkpoints.path(self._open.state).name
            logger.warning("the checkpoint %s is not completed: a rank of the learner that was writing it cannot be asked any more", name)
            self._open.published.cancel()
            await asyncio.gather(self._open.published, return_exceptions=True)
            return
        if learner_failed and unsaved:
            logger.warning("the policy of iteration %d is not saved: a rank of the learner cannot be asked any more", state.iteration)
        try:
            await self.finish()
            if learner_failed or not unsaved:
                return
            await self.save(state, outcome)
            await self.finish()
        except Exception as failure:  # the error that ends the run is the first cause
            if failure is not error:
                logger.exception("the policy of iteration %d could not be saved", state.iteration)
        else:
            logger.warning("the policy of iteration %d was saved before the run ended", state.iteration)

    def commit(self, state: RunState, outcome: Outcome) -> None:
        """Add the evaluations so far to the checkpoint of ``state``; nothing if the policy of ``state`` was not saved."""
        if not self.newest == state.iteration > 0:
            return
        if self._open is not None and self._open.state == state:
            self._open.content = _content(outcome)
            if not self._open.complete:
                return
        self._checkpoints.commit(state, **_content(outcome))


def _content(outcome: Outcome) -> dict[str, Any]:
    """What a checkpoint holds of the results so far; later ones are not part of it."""
    return {"evaluations": list(outcome.evaluations), "held_out": list(outcome.held_out)}
