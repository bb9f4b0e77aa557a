"""How the IPC sender fills its staging buffer; the transfer itself needs a GPU (tests/gpu)."""

from __future__ import annotations

from typing import Any

import pytest
import torch


@pytest.mark.integration
def test_chunks_hold_whole_tensors_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """A buffer of 40 bytes; tensors of 16, 20, 8 and 40 bytes: (16 + 20), (8), (40). What was shipped is bit for bit what was given."""
    from actors.weights.ipc import StagedIPCTrainer

    sender: Any = object.__new__(StagedIPCTrainer)
    sender.packed_buffer_size_bytes = 40
    sender._staging = torch.zeros(40, dtype=torch.uint8)
    shipped: list[tuple[list[str], bytes]] = []

    def ship(chunk: list[Any]) -> None:
        size = sum(packed.size_bytes for packed in chunk)
        shipped.append(([packed.name for packed in chunk], sender._staging[:size].numpy().tobytes()))

    monkeypatch.setattr(sender, "_ship", ship)
    tensors = {"a": torch.randn(2, 2), "b": torch.randn(10, dtype=torch.bfloat16), "c": torch.randn(1).double(), "d": torch.randn(5, 2)}
    sender._send_packed(list(tensors.items()))
    assert [names for names, _ in shipped] == [["a", "b"], ["c"], ["d"]]
    assert b"".join(raw for _, raw in shipped) == b"".join(t.view(-1).view(torch.uint8).numpy().tobytes() for t in tensors.values())
