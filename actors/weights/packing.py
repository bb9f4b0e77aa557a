"""Tensors side by side in a buffer of bytes, and the message that says where each of them lies."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

ALIGNMENT = 64
"""Every tensor starts at a multiple of this many bytes."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where one tensor lies."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int
    """In bytes."""

    @property
    def end(self) -> int:
        """Where the next tensor may start, in bytes."""
        return self.offset + aligned(math.prod(self.shape) * self.dtype.itemsize)

    def of(self, buffer: Tensor) -> Tensor:
        """The tensor in ``buffer`` (bytes,) uint8, with which it shares memory."""
        size = math.prod(self.shape) * self.dtype.itemsize
        return buffer[self.offset : self.offset + size].view(self.dtype).view(self.shape)


def aligned(size_bytes: int) -> int:
    """The size, rounded up to a whole ``ALIGNMENT``."""
    return -(-size_bytes // ALIGNMENT) * ALIGNMENT


def message(places: Sequence[Place]) -> dict[str, Any]:
    """What tells a receiver the places: plain lists, as vLLM's own messages have them."""
    return {
        "names": [place.name for place in places],
        "dtype_names": [str(place.dtype).removeprefix("torch.") for place in places],
        "shapes": [list(place.shape) for place in places],
        "offsets": [place.offset for place in places],
    }


def unpacked(info: Mapping[str, Any], buffer: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Name and view of every tensor that ``message`` describes, in ``buffer`` (bytes,) uint8."""
    for name, dtype, shape, offset in zip(info["names"], info["dtype_names"], info["shapes"], info["offsets"], strict=True):
        yield name, Place(name, getattr(torch, dtype), tuple(shape), offset).of(buffer)
