"""Batches of about as many tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from raypref.errors import ConfigError
from raypref.oracles.support.token_batches import CUDA_TOKENS, device_of, in_batches, padded, token_batches


def test_batches_go_from_long_to_short_within_the_budget() -> None:
    """Budget 12: 7 alone (two would be 14), then 5 and 4 padded to 5 (10), then 3, 2, 2 and 1 padded to 3 (12)."""
    lengths = [2, 7, 3, 1, 5, 2, 4]
    batches = list(token_batches(lengths, 12, "cpu"))
    assert [[lengths[k] for k in batch] for batch in batches] == [[7], [5, 4], [3, 2, 2, 1]]
    assert sorted(k for batch in batches for k in batch) == list(range(7))


def test_an_input_above_the_budget_has_a_batch_of_its_own() -> None:
    assert list(token_batches([30, 40], 12, "cpu")) == [[1], [0]]
    assert list(token_batches([], 12, "cpu")) == []


@pytest.mark.parametrize(("device", "count"), [("cpu", 1), ("cuda", CUDA_TOKENS // 100)])
def test_the_default_is_one_input_a_batch_on_a_cpu_and_a_budget_on_a_gpu(device: Any, count: Any) -> None:
    first = next(token_batches([100] * 1000, None, device))
    assert len(first) == count


@dataclass(frozen=True)
class Text:
    ids: tuple[int, ...]


def test_equal_inputs_are_read_once_and_figures_come_in_the_order_of_the_inputs() -> None:
    """Budget 6: (1, 2, 3) and (4, 5, 6) together, then (7,). A figure is the sum of the ids, and 0.5 for its place in the batch."""
    read = []

    def figures(batch: Any) -> Any:
        read.append([item.ids for item in batch])
        return [sum(item.ids) + 0.5 * place for place, item in enumerate(batch)]

    inputs = [Text(ids) for ids in ((7,), (1, 2, 3), (4, 5, 6), (7,), (4, 5, 6))]
    assert in_batches(figures, inputs, 6, "cpu") == [7.0, 6.0, 15.5, 7.0, 15.5]
    assert read == [[(1, 2, 3), (4, 5, 6)], [(7,)]]
    assert in_batches(figures, [], 6, "cpu") == []


def test_rows_are_padded_on_the_right() -> None:
    ids, mask = padded([[5, 6, 7], [8]], 9, "cpu")
    assert ids.tolist() == [[5, 6, 7], [8, 9, 9]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_of("auto") == "cpu"
    with pytest.raises(ConfigError, match=r"oracle\.device: cuda"):
        device_of("cuda")
