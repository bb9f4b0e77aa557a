"""Groups inputs of different lengths into batches of about equally many tokens.

In a batch, a result depends a little on the other inputs, since padding and batch size change how sums are rounded: PairRM's float32
probabilities by up to 5e-6. So on a CPU, unless a budget is given, each input has its own forward pass, and its result is the same to the
last bit. That costs nothing for inputs of several hundred tokens; inputs of fifty would be three times faster in batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, Protocol, TypeVar

import numpy as np

from raypref.errors import ConfigError

Device = Literal["auto", "cuda", "cpu"]

CUDA_TOKENS = 16384


class TokenInput(Protocol):
    """One input of a model. Equal inputs must get equal results."""

    @property
    def ids(self) -> Sequence[int]:
        """Token ids."""

    def __hash__(self) -> int: ...


Input = TypeVar("Input", bound=TokenInput)


def device_of(wanted: Device) -> str:
    """``cuda`` or ``cpu``; for ``auto``, cuda where there is a GPU.

    Raises:
        ConfigError: ``cuda`` is asked for, and there is no GPU.
    """
    import torch

    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError("oracle.device: cuda, but torch finds no GPU where the oracle runs; see placement, or set it to cpu")
    return ("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted


def token_batches(lengths: Sequence[int], budget: int | None, device: str) -> Iterator[list[int]]:
    """Indices of inputs, each once, the longest inputs first, so that what does not fit into memory fails at once.

    Args:
        lengths: tokens of each input.
        budget: largest number of tokens of a batch, padding included; a longer input has its own batch. None: one input per batch on a
            CPU, ``CUDA_TOKENS`` on a GPU.
        device: ``cuda`` or ``cpu``.
    """
    most = budget or (1 if device == "cpu" else CUDA_TOKENS)
    order = sorted(range(len(lengths)), key=lambda k: -lengths[k])
    while order:
        count = max(1, most // max(1, lengths[order[0]]))
        yield order[:count]
        order = order[count:]


def in_batches(
    compute: Callable[[Sequence[Input]], Sequence[float]], inputs: Sequence[Input], budget: int | None, device: str
) -> list[float]:
    """A result for each input, in their order. Equal inputs are computed once, so that their results are equal to the last bit.

    Args:
        compute: computes one batch.
        inputs: any number, of any lengths.
        budget: see ``token_batches``.
        device: ``cuda`` or ``cpu``.
    """
    distinct = list(dict.fromkeys(inputs))
    results: dict[Input, float] = {}
    for batch in token_batches([len(item.ids) for item in distinct], budget, device):
        read = [distinct[k] for k in batch]
        results.update(zip(read, compute(read), strict=True))
    return [results[item] for item in inputs]


def padded(rows: Sequence[Sequence[int]], padding: int, device: str) -> tuple[Any, Any]:
    """Rows padded on the right, as tensors on ``device``.

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
