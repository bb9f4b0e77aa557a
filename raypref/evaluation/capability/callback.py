"""Measures capability between the iterations of a run, beside it: as a callback of ``raypref.run``."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from raypref.config import RunConfig
from raypref.errors import ConfigError, RayprefError
from raypref.evaluation.capability.measure import Measurement
from raypref.evaluation.capability.tasks import read_tasks
from raypref.metrics.progress import Callback
from raypref.output.capability import BASE
from raypref.output.numbered import by_number
from raypref.output.summary import add_capability

logger = logging.getLogger(__name__)


class MeasureCapability(Callback):
    """Measures the base policy and the policy of every iteration, one after another, in a process beside the run.

        raypref.run(config, callbacks=[raypref.ProgressLine(...), MeasureCapability(config, ["leaderboard"], gpus="7")])

    The figures are in ``output_dir/capability``, in ``summary.json``, in the end table and in ``raypref report``. Policies are those in
    ``output_dir/policies``, so ``checkpoint.policies`` must keep each until it was measured. The run does not wait, except at its end. A
    measurement that fails is logged, and the run goes on.
    """

    def __init__(self, config: RunConfig, tasks: Iterable[str], **options: Any) -> None:
        """
        Args:
            config: of the run.
            tasks: as ``read_tasks`` takes them.
            options: further fields of ``Measurement``: gpus, include_path, limit.

        Raises:
            ConfigError: lm-eval is missing, a task is written wrongly, or the run keeps no policies.
        """
        config = config.located()
        if config.checkpoint.policies == 0:
            raise ConfigError("checkpoint.policies: 0 keeps no policy that could be measured; set it to 2 or more")
        self._measurement = Measurement.of(config, read_tasks(tasks), **options)
        self._base = str(config.policy.path)
        self._run, self._directory = config.output_dir, config.output_dir / "capability"
        self._busy: tuple[subprocess.Popen[bytes], str, str] | None = None
        self._tried: set[str] = set()

    def on_iteration(self, iteration: int) -> None:
        self._go_on()

    def on_evaluation(self, result: Mapping[str, Any]) -> None:
        self._go_on()

    def on_end(self) -> None:
        while self._go_on(wait=True):
            pass

    def _go_on(self, *, wait: bool = False) -> bool:
        """Take up the result of the process, if it has ended, and start the next one. Returns whether one is at work."""
        if self._busy is not None:
            process, policy, model = self._busy
            if not wait and process.poll() is None:
                return True
            self._busy = None
            try:
                self._measurement.finish(process, policy, model, self._output(policy)).write(self._directory)
                add_capability(self._run)
            except (RayprefError, OSError) as error:  # OSError: a full disk
                logger.error("%s", error)
        for policy, model in self._policies():
            if policy not in self._tried and not (self._directory / f"{policy}.json").exists():
                self._tried.add(policy)
                self._busy = (self._measurement.start(model, self._output(policy)), policy, model)
                logger.info("measuring the capability of %s", policy)
                return True
        return False

    def _policies(self) -> Iterator[tuple[str, str]]:
        yield BASE, self._base
        for path in by_number((self._run / "policies").glob("iteration_*")):
            if path.name.removeprefix("iteration_").isdecimal() and path.is_dir():
                yield path.name, str(path)

    def _output(self, policy: str) -> Path:
        return self._directory / f"{policy}.partial"
