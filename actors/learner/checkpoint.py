"""The part of the learner's checkpoint that is not DeepSpeed's: one JSON file. It is written last and marks the checkpoint as complete."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from raypref import types
from raypref.errors import ConfigError

TAG = "state"
"""Name of the folder with DeepSpeed's files."""

_FILE = "learner.json"


@dataclass(slots=True)
class Progress:
    """Progress of the training. Random numbers are seeded by step, so it holds no state of theirs."""

    iteration: int = -1
    """Index of the iteration, from 0; -1 before the first."""
    steps: int = 0
    """Number of optimiser steps of the run."""
    schedule_step: int = 0
    """Number of steps since the schedule began."""
    horizon_steps: float = 1.0
    """Length of the schedule, in steps."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How the state is divided over ranks. A checkpoint can only be loaded with the layout that it was written with."""

    ranks: int
    zero_stage: int


@contextlib.contextmanager
def deepspeed_classes() -> Iterator[None]:
    """Allow, beside tensors and plain values, the classes of DeepSpeed's own that its files hold.

    ``learner_env`` has torch refuse all others, so that a checkpoint cannot run code of whoever could write to it.
    """
    import torch
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    with torch.serialization.safe_globals([LossScaler, ZeroStageEnum, fragment_address]):
        yield


def write(directory: Path, progress: Progress, layout: Layout, samples: Sequence[types.TokenSequence] = ()) -> None:
    """Write the JSON file; ``samples`` are the regulariser's current samples."""
    ids = [[item.prompt_ids.tolist(), item.response_ids.tolist()] for item in samples]
    (directory / _FILE).write_text(json.dumps({"progress": asdict(progress), "layout": asdict(layout), "samples": ids}))


def read(directory: Path, layout: Layout) -> tuple[Progress, tuple[types.TokenSequence, ...]]:
    """The progress and the regulariser's samples stored in ``directory``.

    Raises:
        ConfigError: the checkpoint is incomplete, or was written with another layout.
    """
    path = directory / _FILE
    if not path.is_file():
        raise ConfigError(f"{directory}: no complete checkpoint ({_FILE} is missing); resume from another one")
    state = json.loads(path.read_text())
    saved = Layout(**state["layout"])
    for key, written, configured in (
        ("placement.learner.ranks", saved.ranks, layout.ranks),
        ("learner.zero_stage", saved.zero_stage, layout.zero_stage),
    ):
        if written != configured:
            raise ConfigError(f"{key}: {configured}, but the checkpoint {directory} was written with {written}; set {key}={written}")
    samples = [[np.array(ids, dtype=np.int32) for ids in pair] for pair in state.get("samples", [])]
    return Progress(**state["progress"]), tuple(types.TokenSequence(*pair) for pair in samples)
