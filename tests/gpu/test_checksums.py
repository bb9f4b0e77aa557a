"""Checksums on a GPU are those of a CPU, in chunks of any length: sender and receiver need not compute alike."""

from __future__ import annotations

import pytest
import torch

from actors.weights import checksums
from actors.weights.checksums import checksum
from tests.gpu.devices import DEVICES


@pytest.fixture(autouse=True)
def powers_anew() -> None:
    checksums._powers.cache_clear()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.int8])
@pytest.mark.parametrize("elements", [0, 1, 1000, 100_003, 1_000_003])
def test_any_chunk_gives_the_same(device: str, dtype: torch.dtype, elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In chunks of 2^10 words and two blocks at once on the device, against the CPU's own."""
    torch.manual_seed(0)
    values = torch.randint(-100, 100, (elements,)).to(dtype)
    expected = int(checksum(values))
    checksums._powers.cache_clear()
    monkeypatch.setitem(checksums._CHUNK, torch.device(device).type, 1 << 10)
    monkeypatch.setitem(checksums._BLOCKS, torch.device(device).type, 2)
    assert int(checksum(values.to(device))) == expected
    checksums._powers.cache_clear()


@pytest.mark.parametrize("device", DEVICES)
def test_a_large_tensor(device: str) -> None:
    """64 MiB and a bit, hashed as each device does it."""
    torch.manual_seed(0)
    values = torch.randint(-(2**31), 2**31 - 1, ((1 << 24) + 1000,), dtype=torch.int32)
    assert int(checksum(values.to(device))) == int(checksum(values))
