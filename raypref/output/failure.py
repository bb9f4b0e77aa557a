"""What a run that failed tells its user: what happened, where in the run, the end of the log, and how the run goes on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from raypref.config import RunConfig
from raypref.errors import DISK_ERRORS, ActorFailed, ConfigError, RunFailed
from raypref.output.checkpoint import Checkpoints

LOG_LINES = 5
"""Last lines of the log of an actor that failed."""
LOG_BYTES = 4096
"""Bytes at the end of the log that are read for them."""


@contextlib.contextmanager
def as_run_failure(config: RunConfig, moment: Callable[[], str]) -> Iterator[None]:
    """Raise the failure of an actor or of the disk in the block as the failure of the run.

    Args:
        config: of the run.
        moment: when it happened: ``iteration 2, after step 7``.

    Raises:
        RunFailed: an actor or the disk failed. Any other error is raised as it is.
    """
    try:
        yield
    except ActorFailed as error:
        raise run_failed(error, config, moment()) from error
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        raise run_failed(error, config, moment()) from error


def run_failed(error: ActorFailed | OSError, config: RunConfig, moment: str) -> RunFailed:
    """The run's failure, for the first cause ``error``; see ``as_run_failure``."""
    lines = [f"{error} ({moment})"]
    for actor in error.actors if isinstance(error, ActorFailed) else ():
        log = config.output_dir / "logs" / f"{actor}.log"
        lines += [f"the end of its log, {log}:", *(f"  {line}" for line in last_lines(log))]
    return RunFailed("\n".join([*lines, how_it_goes_on(config)]))


def how_it_goes_on(config: RunConfig) -> str:
    """One line: from which checkpoint ``--resume`` continues."""
    saved = Checkpoints.of(config).complete()
    if not saved:
        return "no iteration had been saved; --resume begins again, and reads back what was judged"
    try:
        state, _ = Checkpoints.read(saved[-1])
    except ConfigError as error:
        return str(error)
    return f"--resume continues from {saved[-1]} (after iteration {state.iteration}, step {state.step})"


def last_lines(log: Path) -> list[str]:
    """The last lines of a text file; why it cannot be read where it cannot."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - LOG_BYTES))
            return file.read().decode("utf-8", errors="replace").splitlines()[-LOG_LINES:]
    except OSError as error:
        return [str(error)]
