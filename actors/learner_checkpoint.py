"""What the learner's checkpoint holds beside DeepSpeed's own files: one JSON file, written last, which marks it complete."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from raypref.errors import ConfigError

TAG = "state"
"""DeepSpeed's name for the folder with its files."""

_FILE = "learner.json"


@dataclass(slots=True)
class Progress:
    """Where training stands. Random numbers are seeded by step, so their state is no part of it."""

    iteration: int = -1
    steps: int = 0
    """Optimiser steps of the run."""
    schedule_step: int = 0
    """Steps since the schedule began."""
    horizon_steps: float = 1.0


@dataclass(frozen=True, slots=True)
class Layout:
    """How the state is spread; a checkpoint fits its own layout only."""

    ranks: int
    zero_stage: int


def write(directory: Path, progress: Progress, layout: Layout) -> None:
    """Complete the checkpoint in ``directory``."""
    (directory / _FILE).write_text(json.dumps({"progress": asdict(progress), "layout": asdict(layout)}, indent=2))


def read(directory: Path, layout: Layout) -> Progress:
    """Progress of the checkpoint in ``directory``.

    Raises:
        ConfigError: there is no complete checkpoint, or it is of another layout.
    """
    path = directory / _FILE
    if not path.is_file():
        raise ConfigError(f"{directory}: no complete checkpoint ({_FILE} is missing); resume from another one")
    state = json.loads(path.read_text())
    saved = Layout(**state["layout"])
    for key, found, own in (
        ("placement.learner.ranks", saved.ranks, layout.ranks),
        ("learner.zero_stage", saved.zero_stage, layout.zero_stage),
    ):
        if found != own:
            raise ConfigError(f"{key}: {own}, but the checkpoint {directory} was written with {found}; set {key}={found}")
    return Progress(**state["progress"])
