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
    """How the state is divided over ranks."""

    ranks: int
    zero_stage: int

    def loads(self, written: Layout) -> bool:
        """Whether a checkpoint with the layout ``written`` is loaded as it is. Otherwise it is converted first (``universal``).

        At stage 0 every rank holds everything, and the file is the same for any number of ranks.
        """
        return self == written or self.zero_stage == written.zero_stage == 0


@dataclass(frozen=True, slots=True)
class Saved:
    """What the JSON file holds."""

    progress: Progress
    layout: Layout
    samples: tuple[types.TokenSequence, ...]
    """Of the regulariser."""


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


def read(directory: Path, layout: Layout, optimizer: str) -> Saved:
    """What ``write`` wrote.

    Args:
        layout: with which the checkpoint is to be loaded.
        optimizer: of the run.

    Raises:
        ConfigError: the checkpoint is incomplete, or its layout is another one and DeepSpeed cannot convert it.
    """
    path = directory / _FILE
    if not path.is_file():
        raise ConfigError(f"{directory}: no complete checkpoint ({_FILE} is missing); resume from another one")
    state = json.loads(path.read_text())
    written = Layout(**state["layout"])
    if not layout.loads(written) and (obstacle := _obstacle(written, layout, optimizer)):
        key, before, now, reason = obstacle
        raise ConfigError(f"{key}: {now}, but the checkpoint {directory} was written with {before}, and {reason}; set {key}={before}")
    samples = [[np.array(ids, dtype=np.int32) for ids in pair] for pair in state.get("samples", [])]
    return Saved(Progress(**state["progress"]), written, tuple(types.TokenSequence(*pair) for pair in samples))


def _obstacle(written: Layout, wanted: Layout, optimizer: str) -> tuple[str, int, int, str] | None:
    """Why DeepSpeed cannot convert a checkpoint: the key, its value in the checkpoint, its value now, and the reason; None if it can."""
    stages = written.zero_stage, wanted.zero_stage
    if stages[0] != stages[1] and not {*stages} <= {1, 2}:
        return "learner.zero_stage", *stages, "DeepSpeed converts from 1 to 2 and from 2 to 1 only"
    if optimizer != "adamw":
        reason = f"DeepSpeed converts the state of adamw only (learner.optimizer.type: {optimizer})"
        if stages[0] != stages[1]:
            return "learner.zero_stage", *stages, reason
        return "placement.learner.ranks", written.ranks, wanted.ranks, reason
    return None
