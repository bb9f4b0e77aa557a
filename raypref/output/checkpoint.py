"""Checkpoints on disk: which exist, which are complete, which one to continue from.

``checkpoints/iteration_0002/`` holds the learner's files of the policy after two iterations, ``data.npz`` with a hash of each item of the
run's data, ``manifest.json`` with the size and the checksum of each of these files, and ``state.json``. That file is written last: a
directory without it is incomplete, and ignored.

``checkpoints/iteration_0002-step_000350/`` holds the same within the iteration after that, after 350 steps of the run. To continue from it
the engines need the policy that the iteration started from, so ``iteration_0002`` stays on disk as long as it does.
"""

from __future__ import annotations

import json
import logging
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from raypref.config import RunConfig
from raypref.data.fingerprint import Fingerprint
from raypref.errors import ConfigError
from raypref.output import manifest
from raypref.output.numbered import by_number, iteration_name, number_in
from raypref.output.removal import remove
from raypref.output.whole_file import write_whole

logger = logging.getLogger(__name__)

_DATA = "data.npz"


@dataclass(frozen=True, slots=True)
class RunState:
    """Progress of a run, between two iterations or within one."""

    iteration: int = 0
    """Number of finished iterations; also the version of the policy that the engines hold."""
    step: int = 0
    """Number of optimiser steps taken."""
    cursor: int = 0
    """Number of prompts (or given examples) that the finished iterations used."""
    steps_within: int = 0
    """How many of the steps belong to the iteration that is not finished; 0 between two iterations."""
    groups_within: int = 0
    """How many groups of that iteration these steps took, dropped ones included."""

    def after_step(self, groups: int) -> Self:
        """The progress after one more step, with which the iteration has taken so many groups."""
        return replace(self, step=self.step + 1, steps_within=self.steps_within + 1, groups_within=groups)


class Checkpoints:
    """The checkpoints of one run: the newest ``keep`` of them, the best one, and those that they need."""

    def __init__(self, directory: Path, keep: int, data: Fingerprint | None = None) -> None:
        """
        Args:
            directory: ``checkpoints/`` of the run.
            keep: how many stay on disk.
            data: of the run; only needed where checkpoints are written.
        """
        self.directory = directory
        self.keep = keep
        self._data = data

    @classmethod
    def of(cls, config: RunConfig, data: Fingerprint | None = None) -> Self:
        """The checkpoints of the run with this config, and this data if they are written."""
        return cls(config.output_dir / "checkpoints", config.checkpoint.keep, data)

    def begin(self, state: RunState) -> Path:
        """An empty directory that the learner writes into."""
        path = self.path(state)
        remove(path)
        path.mkdir(parents=True)
        return path

    def complete_files(self, state: RunState) -> None:
        """Add what belongs to the checkpoint beside the learner's files, and the manifest. Takes as long as it takes to read the files."""
        path = self.path(state)
        if self._data is not None:
            self._data.save(path / _DATA)
        manifest.write(path)

    def commit(self, state: RunState, evaluations: list[dict[str, Any]], held_out: Sequence[dict[str, Any]] = ()) -> None:
        """Mark the checkpoint as complete, or replace what it says of the results.

        Args:
            state: progress of the run.
            evaluations: of the policies so far.
            held_out: losses on held-out examples so far.
        """
        path = self.path(state)
        content: dict[str, Any] = {"state": asdict(state), "evaluations": evaluations, "held_out": list(held_out)}
        if self._data is not None:
            content["data"] = self._data.summary()
        write_whole(path / "state.json", json.dumps(content))

    def prune(self, best: Path | None = None) -> None:
        """Remove the oldest checkpoints beyond ``keep``, but neither ``best`` nor those that another one needs."""
        complete = self.complete()
        kept = {*complete[-self.keep :], *([best] if best in complete else [])}
        needed = {self._start(number_in(path.name) or 0) for path in kept}
        for old in reversed([old for old in complete if old not in kept | needed]):  # a checkpoint goes before the one that it needs
            remove(old)

    def complete(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        return by_number(path.parent for path in self.directory.glob("iteration_*/state.json"))

    def of_iteration(self, iteration: int) -> Path | None:
        """The complete checkpoint after so many iterations, if there is one that is not damaged."""
        path = self._start(iteration)
        return path if path in self.complete() and self.damage(path) is None else None

    def start_of(self, path: Path) -> Path | None:
        """The checkpoint of the iteration's start that continuing from ``path`` needs: ``path`` itself between two iterations, and None
        within the first iteration, which starts from the base policy."""
        state, _ = self.read(path)
        if not state.steps_within:
            return path
        return self._start(state.iteration) if state.iteration else None

    def choose(self, wanted: Path | None) -> Path | None:
        """The checkpoint to continue from.

        Args:
            wanted: a checkpoint of this run, or its name; None: the newest one that is not damaged. A damaged one is logged.

        Returns:
            None where there is none yet.

        Raises:
            ConfigError: the wanted checkpoint does not exist, or is not complete; it, or every checkpoint, is damaged.
        """
        checkpoints = self.complete()
        if wanted is None:
            return self._newest_whole(checkpoints)
        path = self.directory / wanted.name
        if path not in checkpoints:
            names = ", ".join(checkpoint.name for checkpoint in checkpoints) or "none"
            raise ConfigError(f"--resume: {wanted} is no complete checkpoint of this run; there are: {names}")
        if damage := self.damage(path):
            raise ConfigError(f"--resume: {wanted} is damaged: {damage}; choose another checkpoint")
        return path

    def _newest_whole(self, checkpoints: list[Path]) -> Path | None:
        damages: list[str] = []
        for path in reversed(checkpoints):
            damage = self.damage(path)
            if damage is None:
                for message in damages:
                    logger.warning("%s; %s is used", message, path.name)
                return path
            damages.append(f"{path} is damaged: {damage}")
        if damages:
            raise ConfigError(f"--resume: every checkpoint is damaged: {'; '.join(damages)}. Start a new run with another output_dir")
        return None

    def damage(self, path: Path) -> str | None:
        """What is wrong with the files of the checkpoint ``path``, or of one that it needs; None where they are as they were written."""
        try:
            start = self.start_of(path)
            if found := manifest.problems(path):
                return "; ".join(found)
            self.read_fingerprint(path)
            return None if start in (path, None) else self.damage(start)
        except ConfigError as error:
            return str(error)

    @staticmethod
    def read(path: Path) -> tuple[RunState, list[dict[str, Any]]]:
        """The progress and the evaluations stored in the checkpoint ``path``.

        Raises:
            ConfigError: the file is damaged.
        """
        try:
            content = json.loads((path / "state.json").read_text())
            return RunState(**content["state"]), content["evaluations"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _damaged(path / "state.json", error) from error

    @staticmethod
    def read_held_out(path: Path) -> list[dict[str, Any]]:
        """The losses on held-out examples stored in the checkpoint ``path``, which ``read`` has read; none in one of an earlier version."""
        return list(json.loads((path / "state.json").read_text()).get("held_out", []))

    @staticmethod
    def read_fingerprint(path: Path) -> Fingerprint | None:
        """The hashes of the data stored in the checkpoint ``path``; None in one that an earlier version wrote.

        Raises:
            ConfigError: the file is damaged.
        """
        if not (path / _DATA).exists():
            return None
        try:
            return Fingerprint.load(path / _DATA)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise _damaged(path / _DATA, error) from error

    def path(self, state: RunState) -> Path:
        """Where the checkpoint of this state is."""
        return self.directory / iteration_name(state.iteration, state.step if state.steps_within else None)

    def _start(self, iteration: int) -> Path:
        """Where the checkpoint after so many iterations is."""
        return self.directory / iteration_name(iteration)


def _damaged(path: Path, error: Exception) -> ConfigError:
    return ConfigError(f"{path} cannot be read: {error}")
