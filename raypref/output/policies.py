"""Policies of iterations as Hugging Face model directories, ``policies/iteration_0002``; each has the name of its checkpoint."""

from __future__ import annotations

from pathlib import Path

from raypref.config import RunConfig
from raypref.output.numbered import by_number, iteration_name
from raypref.output.removal import put, remove


class Policies:
    """The policies of one run: the newest ``keep`` of them, and the best one."""

    def __init__(self, directory: Path, keep: int) -> None:
        """
        Args:
            directory: ``policies/`` of the run.
            keep: how many stay on disk; 0: none is written.
        """
        self._directory = directory
        self.keep = keep

    def begin(self) -> Path:
        """Where the next policy is written. It appears under its name only when it is complete."""
        partial = self._directory / ".partial"
        remove(partial)
        return partial

    def commit(self, name: str) -> None:
        """The policy that was begun is complete."""
        put(self._directory / ".partial", self._directory / name)

    def find(self, name: str) -> Path | None:
        """The policy of this name, if there is one."""
        path = self._directory / name
        return path if path.exists() else None

    def prune(self, best: str | None = None) -> None:
        """Remove the oldest policies beyond ``keep``, but not the one of the name ``best``."""
        for old in by_number(self._directory.glob("iteration_*"))[: -self.keep] if self.keep else ():
            if old.name != best:
                remove(old)


def stored_policy(config: RunConfig, iteration: int) -> str | None:
    """The policy after so many iterations on disk, as ``policy.path`` names one; None where the run has it not, or not yet."""
    if iteration == 0:
        return config.policy.path
    path = config.output_dir / "policies" / iteration_name(iteration)
    return str(path) if path.exists() else None
