"""Checksums of tensors, the same on CPU and GPU, and a record of those that a copy of the policy received.

Two steps: sums that a vector unit computes as fast as memory is read, then a hash of these few sums.

1. The bytes of a tensor are read as little-endian words of 64 bits, in rows of 255 words, in blocks of 128 rows. The sums modulo 2^64 of
   each row, and of each column of each block, stand for the words. What lies behind the last row stands for itself, filled with zeros.
2. The result, columns, rows, then the words behind, is read as signed words of 32 bits, a_0 ... a_{n-1}, and hashed by Horner's rule:

    H = c M^n + sum_i a_i M^{n-1-i} modulo 2^64,   M = 6364136223846793005,   c = crc32 of dtype and shape.

A change of one word changes the sums of its row and its column, and an exchange of two different words those of their rows or those of
their columns; so does one and the same number added to every word, since a row is an odd number of them. A change that no sum shows has
to cancel out in every row and every column. M is odd, so a change of one a_i always changes H; of a change of several, one in about 2^64
does not. This is no protection against an adversary.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import Any

import torch
from torch import Tensor

_ROW, _ROWS = 255, 128
"""Words of a row, and rows of a block."""
_BLOCKS = {"cpu": 4, "cuda": 1 << 12}
"""Device type -> blocks summed at once. Four fit a core's second-level cache, from which the columns are read after the rows. A GPU
gets many, so that it launches few kernels; the number was not tuned on one."""
_MULTIPLIER = 6364136223846793005
_CHUNK = {"cpu": 1 << 18, "cuda": 1 << 20}
"""Device type -> numbers hashed at once, 2 and 8 MiB of int64: the sums of 85 and of 340 MiB."""
_WORD_BYTES = 8
_HANDED_BYTES = 1 << 18
"""A tensor up to this size is hashed in less time than it takes to hand it to another thread."""
_AHEAD_BYTES = 1 << 30
"""Tensors that are kept at most until they are hashed; each may be a copy that has no other use."""


@torch.no_grad()
def checksum(tensor: Tensor) -> Tensor:
    """The checksum of a tensor's values, dtype and shape, as an int64 scalar on the tensor's device (no synchronisation)."""
    first, *others = _sums(tensor).view(torch.int32).split(_CHUNK[tensor.device.type])
    powers = _powers(tensor.device)
    start = zlib.crc32(f"{tensor.dtype}{list(tensor.shape)}".encode()) * _power(len(first))
    total = _weighted_sum(first, powers) + _signed(start)  # a number in Python: as a tensor, it would be copied to the device
    for chunk in others:
        total = total * _signed(_power(len(chunk))) + _weighted_sum(chunk, powers)
    return total


def _sums(tensor: Tensor) -> Tensor:
    """(blocks * 255 + rows + words behind the last row,) int64; see the top of the file."""
    raw = tensor.detach().contiguous().view(-1).view(torch.uint8)
    if raw.storage_offset() % _WORD_BYTES:
        raw = raw.clone()  # a view of wider elements must begin at a whole one
    rows = len(raw) // (_ROW * _WORD_BYTES)
    table, behind = raw[: rows * _ROW * _WORD_BYTES], raw[rows * _ROW * _WORD_BYTES :]
    if ragged := len(behind) % _WORD_BYTES:
        behind = torch.nn.functional.pad(behind, (0, _WORD_BYTES - ragged))
    if not rows:
        return behind.view(torch.int64)
    by_row, by_column = [], []
    for block in _blocks(table.view(torch.int64).view(rows, _ROW)):
        by_row.append(block.sum(2).view(-1))
        by_column.append(block.sum(1).view(-1))
    return torch.cat([*by_column, *by_row, behind.view(torch.int64)])


def _blocks(table: Tensor) -> Iterator[Tensor]:
    """The rows in several whole blocks at once, and those that are left as one shorter block: (blocks, rows of each, 255)."""
    whole = len(table) // _ROWS * _ROWS
    if whole:
        yield from table[:whole].view(-1, _ROWS, _ROW).split(_BLOCKS[table.device.type])
    if whole < len(table):
        yield table[whole:].unsqueeze(0)


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
        self._sums: dict[str, Future[Tensor]] = {}
        self._thread = ChecksumThread()
        load = model.load_weights

        def recorded(weights: Iterable[tuple[str, Tensor]], *args: Any, **kwargs: Any) -> Any:
            try:
                return load(self._record(weights), *args, **kwargs)
            finally:
                self._thread.wait()

        model.load_weights = recorded

    def begin(self, *, complete: bool) -> None:
        """A sync starts: of every tensor, so that what came before is forgotten, or of some, so that the others stay as they are."""
        if complete:
            self._sums.clear()

    def values(self) -> dict[str, int]:
        """Parameter name -> checksum, of all that was loaded since the last complete sync began."""
        return {name: int(value.result()) for name, value in self._sums.items()}

    def _record(self, weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in weights:
            self._sums[name] = self._thread.start(tensor)
            yield name, tensor


class ChecksumThread:
    """Computes checksums of a CPU's tensors beside what the caller does with them; the tensors must keep their values until ``wait``."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._ahead: deque[tuple[Future[Tensor], int]] = deque()
        """Checksums that may not be computed yet, with the sizes of the tensors that are kept for them."""

    def start(self, tensor: Tensor) -> Future[Tensor]:
        """The future checksum. A small tensor's is computed here and now; a GPU's is launched, on the stream of all that comes later."""
        if tensor.device.type == "cpu" and tensor.nbytes > _HANDED_BYTES:
            while sum(size for _, size in self._ahead) > _AHEAD_BYTES:
                futures.wait([self._ahead.popleft()[0]])
            self._ahead.append((self._thread.submit(checksum, tensor), tensor.nbytes))
            return self._ahead[-1][0]
        done: Future[Tensor] = Future()
        done.set_result(checksum(tensor))
        return done

    def wait(self) -> None:
        """Until every checksum that was started is computed."""
        futures.wait([future for future, _ in self._ahead])
        self._ahead.clear()
