"""When the policy is saved, and what a checkpoint of it holds."""

from __future__ import annotations

from typing import Any

from raypref.config import RunConfig
from raypref.loop.iterations import due
from raypref.output.checkpoint import Checkpoints, RunState
from raypref.roles import LearnerRole


class Saving:
    """Saves the policy of a run after the iterations that ``checkpoint`` says, and after the last one."""

    def __init__(self, config: RunConfig, learner: LearnerRole, checkpoints: Checkpoints) -> None:
        self._config = config
        self._learner = learner
        self._checkpoints = checkpoints
        self.newest = 0
        """The iteration of the newest checkpoint; 0: the run would be repeated from its start."""

    def due(self, state: RunState) -> bool:
        """Whether the policy of ``state`` is saved; the base policy never is."""
        return state.iteration > 0 and due(self._config, state.iteration, every=None, every_steps=self._config.checkpoint.every_steps)

    async def save(self, state: RunState, evaluations: list[dict[str, Any]]) -> None:
        """Save the learner's state; the checkpoint is complete then."""
        await self._learner.save(self._checkpoints.begin(state) / "learner")
        self.newest = state.iteration
        self.commit(state, evaluations)

    def commit(self, state: RunState, evaluations: list[dict[str, Any]]) -> None:
        """Mark the checkpoint as complete, with the evaluations so far; nothing if the policy of ``state`` was not saved."""
        if self.newest == state.iteration > 0:
            self._checkpoints.commit(state, evaluations=evaluations)
