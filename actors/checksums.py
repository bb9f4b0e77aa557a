"""Checksums of tensors, the same on CPU and GPU.

The elements of a tensor are read as integers of their own width, a_0 ... a_{n-1}, and hashed by Horner's rule modulo 2^64:

    H = c M^n + sum_i a_i M^{n-1-i},   M = 6364136223846793005,   c = crc32 of dtype and shape.

M is odd, so a change of any single element is always caught; M = 1 (mod 4), so M^d - 1 has no more factors of two than 4 d has, and for
elements of up to 32 bits every exchange of two different elements less than 2^31 apart is always caught. Any other change goes
unnoticed with a chance of about 2^-64; this is no protection against an adversary.
"""

from __future__ import annotations

import zlib
from functools import cache

import torch
from torch import Tensor

_MULTIPLIER = 6364136223846793005
_CHUNK = 1 << 18
"""Elements hashed at once: 2 MiB of int64."""
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@torch.no_grad()
def checksum(tensor: Tensor) -> Tensor:
    """The checksum of a tensor's values, dtype and shape, as an int64 scalar on the tensor's device (no synchronisation)."""
    integers = tensor.detach().contiguous().view(-1).view(_INTEGERS[tensor.element_size()])
    total = torch.tensor(zlib.crc32(f"{tensor.dtype}{list(tensor.shape)}".encode()), device=tensor.device)
    powers = _powers(tensor.device)
    for chunk in integers.split(_CHUNK):
        shift = _signed(pow(_MULTIPLIER, len(chunk), 1 << 64))
        total = total * shift + (chunk * powers[_CHUNK - len(chunk) :]).sum()
    return total


@cache
def _powers(device: torch.device) -> Tensor:
    """(_CHUNK,) M^(_CHUNK - 1), ..., M, 1 modulo 2^64 (int64 arithmetic wraps)."""
    powers = [1]
    for _ in range(_CHUNK.bit_length() - 1):  # doubling: [p] -> [p, p M^len(p)]
        factor = pow(_MULTIPLIER, len(powers), 1 << 64)
        powers += [value * factor % (1 << 64) for value in powers]
    return torch.tensor([_signed(value) for value in reversed(powers)], device=device)


def _signed(value: int) -> int:
    """The int64 with the same bits as an unsigned 64-bit number."""
    return value - (1 << 64) if value >= 1 << 63 else value
