"""Checksums: Horner's rule modulo 2^64 over words of 32 bits."""

from __future__ import annotations

import zlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from actors.weights.checksums import checksum

MULTIPLIER = 6364136223846793005


def test_two_elements_by_hand() -> None:
    """H = c M^2 + a_0 M + a_1, with the float32 bits of 1.0 (0x3F800000) and 2.0 (0x40000000)."""
    start = zlib.crc32(b"torch.float32[2]")
    expected = (start * MULTIPLIER**2 + 0x3F800000 * MULTIPLIER + 0x40000000) % 2**64
    assert int(checksum(torch.tensor([1.0, 2.0]))) % 2**64 == expected


def test_narrow_elements_share_words_by_hand() -> None:
    """Three bfloat16, 1.0 (0x3F80), -2.0 (0xC000), 1.0: words 0xC0003F80, which is negative as an int32, and 0x00003F80 with two zero
    bytes behind. The same from where no word begins: the last three of four elements."""
    start = zlib.crc32(b"torch.bfloat16[3]")
    expected = (start * MULTIPLIER**2 + (0xC0003F80 - 2**32) * MULTIPLIER + 0x3F80) % 2**64
    values = torch.tensor([5.0, 1.0, -2.0, 1.0], dtype=torch.bfloat16)
    assert int(checksum(values[1:])) % 2**64 == expected
    assert int(checksum(values[1:].clone())) % 2**64 == expected
    two = torch.tensor([5.0, 1.0, -2.0], dtype=torch.bfloat16)[1:]
    assert int(checksum(two)) == int(checksum(two.clone()))


def test_longer_than_one_chunk() -> None:
    """The same rule, element by element in Python, over 300,000 elements: more than one chunk of 2^18."""
    values = torch.arange(300_000, dtype=torch.int32) * -7
    expected = zlib.crc32(b"torch.int32[300000]")
    for value in values.tolist():
        expected = (expected * MULTIPLIER + value) % 2**64
    assert int(checksum(values)) % 2**64 == expected


def test_dtype_shape_and_layout() -> None:
    """Dtype and shape count, strides do not; an empty tensor and a scalar have a checksum, too."""
    tensor = torch.arange(6.0).view(2, 3)
    transposed_storage = tensor.T.contiguous().T
    assert int(checksum(transposed_storage)) == int(checksum(tensor))
    others = [tensor.view(3, 2), tensor.view(torch.int32), torch.zeros(0, 3), torch.zeros(3, 0), torch.zeros(())]
    assert len({int(checksum(other)) for other in [tensor, *others]}) == 6


def test_every_width() -> None:
    sums = {int(checksum(torch.ones(4, dtype=dtype))) for dtype in (torch.int8, torch.bfloat16, torch.float32, torch.float64)}
    assert len(sums) == 4


@pytest.mark.parametrize(("dtype", "bits"), [(torch.int16, 16), (torch.int32, 32)])
@given(data=st.data())
def test_a_changed_element_or_an_exchange_is_always_caught(dtype: torch.dtype, bits: int, data: st.DataObject) -> None:
    values = data.draw(st.lists(st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1), min_size=2, max_size=40))
    before = torch.tensor(values, dtype=dtype)
    i, j = data.draw(st.integers(0, len(values) - 1)), data.draw(st.integers(0, len(values) - 1))
    changed = before.clone()
    changed[i] ^= 1 << data.draw(st.integers(0, bits - 2))
    assert int(checksum(changed)) != int(checksum(before))
    exchanged = before.clone()
    exchanged[i], exchanged[j] = before[j], before[i]
    assert (int(checksum(exchanged)) == int(checksum(before))) == (values[i] == values[j])
