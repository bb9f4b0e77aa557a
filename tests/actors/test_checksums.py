"""Checksums: sums of rows and columns of words of 64 bits, then Horner's rule modulo 2^64 over them."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from actors.weights import checksums
from actors.weights.checksums import ReceivedChecksums, checksum

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


def by_definition(words: list[int], whole: int) -> list[int]:
    """The sums of columns in blocks of 128 rows, those of rows of 255 whole words, and the words behind the last row, modulo 2^64."""
    rows = [words[start : start + 255] for start in range(0, whole - 254, 255)]
    blocks = [rows[start : start + 128] for start in range(0, len(rows), 128)]
    columns = [sum(column) for block in blocks for column in zip(*block, strict=True)]
    return [number % 2**64 for number in [*columns, *map(sum, rows), *words[len(rows) * 255 :]]]


@pytest.mark.parametrize("elements", [3, 509, 510, 511, 2 * 255 * 128, 300_000])
def test_rows_columns_and_the_words_behind_them(elements: int) -> None:
    """In Python, number by number: half a word less than a row of 255, a row, half a word more; one block, and 300,000
    elements: four blocks, 76 rows and 60 words."""
    values = (torch.arange(elements) * 2654435761).to(torch.int32)
    padded = [value % 2**32 for value in values.tolist()] + [0] * (elements % 2)
    words = [low | high << 32 for low, high in zip(padded[::2], padded[1::2], strict=True)]
    expected = zlib.crc32(f"torch.int32[{elements}]".encode())
    for number in by_definition(words, elements // 2):
        for half in (number % 2**32, number >> 32):
            expected = (expected * MULTIPLIER + (half - 2**32 if half >= 2**31 else half)) % 2**64
    assert int(checksum(values)) % 2**64 == expected


def test_hash_longer_than_one_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk of 2^10 numbers gives what one of 2^18 gives, and blocks that are summed one by one what several at once give."""
    values = torch.arange(300_000) * -7
    expected = int(checksum(values))
    monkeypatch.setitem(checksums._BLOCKS, "cpu", 1)
    monkeypatch.setitem(checksums._CHUNK, "cpu", 1 << 10)
    checksums._powers.cache_clear()
    assert int(checksum(values)) == expected
    checksums._powers.cache_clear()


def test_what_may_happen_to_a_weight_is_caught() -> None:
    """One element, two that change places, rows and columns that do, a transposition, a part that stays as it was; every sign, every
    exponent, every element by the same number; in a matrix whose rows are no rows of the checksum, and in one whose rows are."""
    for width, dtype in [(512, torch.float32), (510, torch.float32), (1020, torch.bfloat16), (255, torch.float64)]:
        torch.manual_seed(0)
        before = torch.randn(width, width).to(dtype)
        swapped, perturbed, stale = before.clone(), before.clone(), before.clone()
        swapped[3, 5], swapped[3 + 128, 5] = before[3 + 128, 5], before[3, 5]
        perturbed[-1, -1] += 1
        stale[100:] = 0
        rows, columns = torch.arange(width), torch.arange(width)
        rows[0], rows[128] = 128, 0
        columns[0], columns[2] = 2, 0
        changed = [swapped, perturbed, stale, before[rows], before[:, columns], before.T, before.flip(0), before.roll(1), -before]
        changed += [before * 2, before * 65536, (before.view(torch.uint8) + 1).view(dtype)]
        assert len({int(checksum(other)) for other in [before, *changed]}) == 1 + len(changed)


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


def test_received_checksums_are_of_the_values_that_were_loaded() -> None:
    """The buffer that the tensors lie in is overwritten once ``load_weights`` has returned; a partial sync leaves the others' checksums."""

    class Model:
        loaded: ClassVar[list[str]] = []

        def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
            self.loaded.extend(name for name, _ in weights)

    model, buffer = Model(), torch.randn(4, 300_000)
    received = ReceivedChecksums(model)
    expected = {str(row): int(checksum(buffer[row])) for row in range(4)}
    received.begin(complete=True)
    model.load_weights((str(row), buffer[row]) for row in range(4))
    buffer.zero_()
    assert received.values() == expected
    received.begin(complete=False)
    model.load_weights([("2", buffer[2])])
    assert received.values() == expected | {"2": int(checksum(buffer[2]))}
    assert model.loaded == ["0", "1", "2", "3", "2"]
