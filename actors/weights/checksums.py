"""Checksums of tensors, the same on CPU and GPU, and a record of those that a copy of the policy received.

The bytes of a tensor are read as signed words of 32 bits, a_0 ... a_{n-1} (little-endian, zeros behind the last), and hashed by Horner's
rule modulo 2^64:

    H = c M^n + sum_i a_i M^{n-1-i},   M = 6364136223846793005,   c = crc32 of dtype and shape.

M is odd, so a change of any single word is always caught. M = 1 (mod 4), so M^d - 1 has no more factors of two than 4 d has, and every
exchange of two different words less than 2^31 apart is always caught, of two 16-bit elements too: their difference has at most 15
factors of two, moving to the other half of a word at most 16 more. Any other change goes unnoticed with a chance of about 2^-64; this
is no protection against an adversary.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor

_MULTIPLIER = 6364136223846793005
_CHUNK = {"cpu": 1 << 18, "cuda": 1 << 24}
"""Device type -> words hashed at once, 2 and 128 MiB of int64. A GPU hashes 16 GiB/s in chunks of 2^18 (the rest is the launch of kernels),
57 in 2^20, 296 in 2^22 and 392 in 2^24 (H200)."""
_WORD_BYTES = 4


@torch.no_grad()
def checksum(tensor: Tensor) -> Tensor:
    """The checksum of a tensor's values, dtype and shape, as an int64 scalar on the tensor's device (no synchronisation)."""
    first, *others = _words(tensor).split(_CHUNK[tensor.device.type])
    powers = _powers(tensor.device)
    start = zlib.crc32(f"{tensor.dtype}{list(tensor.shape)}".encode()) * _power(len(first))
    total = _weighted_sum(first, powers) + _signed(start)  # a number in Python: as a tensor, it would be copied to the device
    for chunk in others:
        total = total * _signed(_power(len(chunk))) + _weighted_sum(chunk, powers)
    return total


def _words(tensor: Tensor) -> Tensor:
    """(ceil(bytes / 4),) int32."""
    raw = tensor.detach().contiguous().view(-1).view(torch.uint8)
    if ragged := raw.numel() % _WORD_BYTES:
        raw = torch.nn.functional.pad(raw, (0, _WORD_BYTES - ragged))
    elif raw.storage_offset() % _WORD_BYTES:
        raw = raw.clone()  # a view of wider elements must begin at a whole one
    return raw.view(torch.int32)


def _weighted_sum(words: Tensor, powers: Tensor) -> Tensor:
    """sum_i words_i M^{n-1-i} modulo 2^64, from the last n of ``powers``: an integer dot product, which torch has for CPUs alone."""
    powers = powers[len(powers) - len(words) :]
    if words.device.type == "cpu":
        return torch.dot(words.long(), powers)
    return (words * powers).sum()


@cache
def _powers(device: torch.device) -> Tensor:
    """(chunk,) M^(chunk - 1), ..., M, 1 modulo 2^64 (int64 arithmetic wraps), computed on the device."""
    powers = torch.ones(1, dtype=torch.int64, device=device)
    while len(powers) < _CHUNK[device.type]:  # doubling: [p] -> [p M^len(p), p]
        powers = torch.cat([powers * _signed(_power(len(powers))), powers])
    return powers


def _power(exponent: int) -> int:
    """M^exponent modulo 2^64."""
    return pow(_MULTIPLIER, exponent, 1 << 64)


def _signed(value: int) -> int:
    """The int64 that is equal to ``value`` modulo 2^64."""
    value %= 1 << 64
    return value - (1 << 64) if value >= 1 << 63 else value


class ReceivedChecksums:
    """The checksum of each tensor as a model last loaded it.

    Every transport ends in the model's ``load_weights``; engines fuse and repack the tensors only behind it. So they are hashed there.
    """

    def __init__(self, model: Any) -> None:
        """
        Args:
            model: its ``load_weights(weights)`` is replaced by one that records and then calls it.
        """
        self._sums: dict[str, Tensor] = {}
        load = model.load_weights

        def recorded(weights: Iterable[tuple[str, Tensor]], *args: Any, **kwargs: Any) -> Any:
            return load(self._record(weights), *args, **kwargs)

        model.load_weights = recorded

    def begin(self, *, complete: bool) -> None:
        """A sync starts: of every tensor, so that what came before is forgotten, or of some, so that the others stay as they are."""
        if complete:
            self._sums.clear()

    def values(self) -> dict[str, int]:
        """Parameter name -> checksum, of all that was loaded since the last complete sync began."""
        return {name: int(value) for name, value in self._sums.items()}

    def _record(self, weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in weights:
            self._sums[name] = checksum(tensor)
            yield name, tensor
