"""How large an oracle's models are, from their files: a config does not state it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from raypref.config import RunConfig
from raypref.plan.hub_cache import cached_model

WEIGHT_FILES = ("*.safetensors", "pytorch_model*.bin")


def oracle_bytes(config: RunConfig) -> int | None:
    """Bytes of the weight files of the oracle's models, of several models together; None: they are not on this machine."""
    paths = [getattr(oracle, "path", None) for oracle in _oracles(config.oracle)]
    sizes = [_files_bytes(path) for path in paths if path is not None]
    return None if any(size is None for size in sizes) else sum(size or 0 for size in sizes)


def _oracles(oracle: Any) -> list[Any]:
    members = getattr(oracle, "members", None)
    return [oracle] if members is None else [inner for member in members for inner in _oracles(member.oracle)]


def _files_bytes(path: str) -> int | None:
    """Of a directory, or of the copy that the hub's cache holds."""
    directory = Path(path)
    if not directory.is_dir():
        cached = cached_model(path)
        if cached is None:
            return None
        directory = cached
    return next((total for pattern in WEIGHT_FILES if (total := sum(file.stat().st_size for file in directory.glob(pattern)))), None)
