"""Loads a checkpoint that was written with another number of ranks, or another ZeRO stage, through DeepSpeed's universal format.

That format has one folder per parameter, with the whole of its float32 weight and of its two moments. The weights of a policy that are not
trained, beside an adapter, are not loaded: the ranks have read them from ``policy.path``.
"""

from __future__ import annotations

import shutil
from argparse import Namespace
from pathlib import Path
from typing import Any

from actors.learner.checkpoint import TAG, Layout, read
from actors.learner.deepspeed_setup import wait_for_all
from raypref.errors import ConfigError

_COPIES = 2
"""Sizes of the checkpoint that are on disk at once during the conversion: each rank's part of every parameter, and the whole ones."""


def check(directory: Path, layout: Layout, optimizer: str) -> None:
    """Check that the learner's checkpoint ``directory`` can be loaded with ``layout``; nothing is written.

    Raises:
        ConfigError: it cannot (see ``checkpoint.read``), or it must be converted and the disk has no room for that.
    """
    if layout.loads(read(directory, layout, optimizer).layout):
        return
    needed = _COPIES * sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
    free = shutil.disk_usage(directory).free
    if needed > free:
        raise ConfigError(
            f"placement.learner.ranks: {layout.ranks}, but the checkpoint {directory} was written with another number of ranks or another "
            f"learner.zero_stage; converting it takes {_COPIES} times its size, {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free "
            "there. Make room, or set both keys as they were"
        )


def load(engine: Any, directory: Path, rank: int, world_size: int) -> str | None:
    """Convert the checkpoint, load it, and remove what the conversion wrote. A collective of all ranks.

    Returns:
        what DeepSpeed's ``load_checkpoint`` says it loaded.
    """
    converted = directory.with_name(f"{directory.name}.universal")
    if rank == 0:
        _convert(directory, converted)
    wait_for_all(world_size)
    engine._config.load_universal_checkpoint = True
    try:
        loaded, _ = engine.load_checkpoint(str(converted), tag=TAG)
    finally:
        engine._config.load_universal_checkpoint = False
    _give_each_its_own_step(engine.optimizer.optimizer)
    wait_for_all(world_size)
    if rank == 0:
        shutil.rmtree(converted)
    return loaded


def _convert(directory: Path, converted: Path) -> None:
    """Write the checkpoint ``directory`` to ``converted`` in the universal format, in place of what an interrupted conversion left there.

    In this process, so that torch refuses foreign classes here, too (``deepspeed_classes``).
    """
    from deepspeed.checkpoint import ds_to_universal

    shutil.rmtree(converted, ignore_errors=True)
    folders = {"input_folder": str(directory / TAG), "output_folder": str(converted / TAG)}
    workers = {"num_extract_workers": 1, "num_merge_workers": 1}
    ds_to_universal.main(Namespace(**folders, **workers, keep_temp_folder=False, strict=True, inject_missing_state=True))


def _give_each_its_own_step(optimizer: Any) -> None:
    """DeepSpeed leaves one step counter, in host memory, to all groups of parameters: each of them would increase it, at every step."""
    for parameter, state in optimizer.state.items():
        state["step"] = state["step"].to(parameter.device, copy=True)
