"""Inputs of different lengths in batches of about as many tokens each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np

from raypref.errors import ConfigError

Device = Literal["auto", "cuda", "cpu"]

CPU_TOKENS = 1500
"""A batch of more outgrows the caches, and pads more."""
CUDA_TOKENS = 16384


def device_of(wanted: Device) -> str:
    """``cuda`` or ``cpu``; with ``auto``, cuda where there is one.

    Raises:
        ConfigError: there is none.
    """
    import torch

    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError("oracle.device: cuda, but torch finds no GPU where the oracle runs; see placement, or set it to cpu")
    return ("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted


def token_batches(lengths: Sequence[int], budget: int | None, device: str) -> Iterator[list[int]]:
    """Indices of inputs, each once, the longest inputs first: what does not fit into memory fails at once.

    Args:
        lengths: tokens of each input.
        budget: tokens of a batch at most, padding included; a longer input has a batch of its own. None: ``CPU_TOKENS`` or
            ``CUDA_TOKENS``.
        device: ``cuda`` or ``cpu``.
    """
    most = budget or (CPU_TOKENS if device == "cpu" else CUDA_TOKENS)
    order = sorted(range(len(lengths)), key=lambda k: -lengths[k])
    while order:
        count = max(1, most // max(1, lengths[order[0]]))
        yield order[:count]
        order = order[count:]


def padded(rows: Sequence[Sequence[int]], padding: int, device: str) -> tuple[Any, Any]:
    """Rows padded on the right, on ``device``.

    Args:
        rows: token ids of each input.
        padding: the token id to pad with.
        device: ``cuda`` or ``cpu``.

    Returns:
        (N, T) ids and (N, T) mask, 1 where a token is; both int64.
    """
    import torch

    ids = np.full((len(rows), max(map(len, rows))), padding, dtype=np.int64)
    mask = np.zeros_like(ids)
    for k, row in enumerate(rows):
        ids[k, : len(row)] = row
        mask[k, : len(row)] = 1
    return torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)
