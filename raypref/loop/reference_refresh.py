"""Which policy is pi_ref, where it is refreshed: that of the start of iteration t - t mod N.

It is written to ``output_dir/reference/iteration_0004`` and read from there by the references and by learner ranks that hold pi_ref, so a
run that is resumed finds the very same one.
"""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

from raypref.errors import ConfigError
from raypref.roles import LearnerRole, ReferenceRole
from raypref.sections import ReferenceConfig

_KEPT = 2
"""Policies that stay on disk: the one in use and the one before it, which the last checkpoint may ask for."""


class ReferenceRefresh:
    """Refreshes pi_ref before the iterations that call for it."""

    def __init__(self, config: ReferenceConfig, learner: LearnerRole, reference: ReferenceRole | None, output_dir: Path) -> None:
        self._config = config
        self._learner = learner
        self._reference = reference
        self._directory = output_dir / "reference"
        self._held = 0
        """At the start of which iteration pi_ref was the policy; 0: the one that the run started from."""

    def due(self, iteration: int) -> bool:
        """Whether pi_ref changes before ``iteration``."""
        return self._config.policy != "fixed" and self._start(iteration) != self._held

    def _start(self, iteration: int) -> int:
        return iteration - iteration % self._config.every

    async def before(self, iteration: int) -> None:
        """Make pi_ref what it is in ``iteration``; called when the learner holds the policy of its start.

        Raises:
            ConfigError: a resumed run's pi_ref is gone.
        """
        if not self.due(iteration):
            return
        start = self._start(iteration)
        directory = self._directory / f"iteration_{start:04d}"
        if start == iteration:
            await self._learner.export(directory)
        if not (directory / "config.json").is_file():
            raise ConfigError(f"reference.policy: pi_ref of iteration {iteration} should be in {directory}, and is not; start the run anew")
        readers = [self._learner.refresh_reference(directory)]
        if self._reference is not None:
            readers.append(self._reference.refresh(directory))
        await asyncio.gather(*readers)
        self._held = start
        for old in sorted(self._directory.glob("iteration_*"))[:-_KEPT]:
            shutil.rmtree(old)
