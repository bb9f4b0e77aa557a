"""What the learner's checkpoint holds beside DeepSpeed's own files: one JSON file, written last, which marks it complete."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from raypref import types
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


def write(directory: Path, progress: Progress, layout: Layout, samples: Sequence[types.TokenSequence] = ()) -> None:
    """Complete the checkpoint in ``directory``; ``samples`` are those of the regulariser, which later steps go on with."""
    ids = [[item.prompt_ids.tolist(), item.response_ids.tolist()] for item in samples]
    (directory / _FILE).write_text(json.dumps({"progress": asdict(progress), "layout": asdict(layout), "samples": ids}))


def read(directory: Path, layout: Layout) -> tuple[Progress, tuple[types.TokenSequence, ...]]:
    """Progress and the regulariser's samples of the checkpoint in ``directory``.

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
    samples = [[np.array(ids, dtype=np.int32) for ids in pair] for pair in state.get("samples", [])]
    return Progress(**state["progress"]), tuple(types.TokenSequence(*pair) for pair in samples)
