"""A reference policy that is refreshed every N iterations: in iteration t it is the policy of the start of iteration t - t mod N.

The learner writes it to ``output_dir/reference/iteration_0004``. The references, and learner ranks that hold pi_ref, read it from there,
so a resumed run uses exactly the same one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from pathlib import Path

from raypref.errors import ConfigError
from raypref.output.numbered import by_number, iteration_name
from raypref.output.removal import remove, replacing
from raypref.roles import LearnerRole, ReferenceRole
from raypref.sections import ReferenceConfig

_KEPT = 2
"""Policies that stay on disk in any case: the one in use and the one before it."""


class ReferenceRefresh:
    """Refreshes pi_ref before an iteration when it is due."""

    def __init__(self, config: ReferenceConfig, learner: LearnerRole, reference: ReferenceRole | None, output_dir: Path) -> None:
        self._config = config
        self._learner = learner
        self._reference = reference
        self._directory = output_dir / "reference"
        self._held = 0
        """pi_ref is the policy of the start of this iteration."""

    def due(self, iteration: int) -> bool:
        """Whether pi_ref changes before ``iteration``."""
        return self._config.policy != "fixed" and self._start(iteration) != self._held

    def _start(self, iteration: int) -> int:
        return iteration - iteration % self._config.every

    async def before(self, iteration: int, *, resumed_from: Collection[int] = ()) -> None:
        """Load the pi_ref of ``iteration``. The learner must hold the policy of that iteration's start.

        Args:
            iteration: from 0.
            resumed_from: the iterations after which there is a checkpoint; the pi_ref with which each is continued stays on disk.

        Raises:
            ConfigError: the run was resumed and the directory of its pi_ref is gone.
        """
        if not self.due(iteration):
            return
        start = self._start(iteration)
        directory = self._directory / iteration_name(start)
        if start == iteration:
            with replacing(directory) as place:
                await self._learner.export(place)
        if not (directory / "config.json").is_file():
            raise ConfigError(
                f"reference.policy: pi_ref of iteration {iteration} should be in {directory}, but is not there; "
                f"start the run again from the beginning"
            )
        readers = [self._learner.refresh_reference(directory)]
        if self._reference is not None:
            readers.append(self._reference.refresh(directory))
        await asyncio.gather(*readers)
        self._held = start
        needed = {iteration_name(self._start(number)) for number in resumed_from}
        for old in by_number(self._directory.glob("iteration_*"))[:-_KEPT]:
            if old.name not in needed:
                remove(old)
