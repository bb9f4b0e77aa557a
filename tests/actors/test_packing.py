"""Tensors side by side in one buffer."""

from __future__ import annotations

import torch

from actors.weights.packing import ALIGNMENT, Place, message, unpacked


def test_a_message_says_where_each_tensor_lies() -> None:
    """Aligned, whatever the sizes; the names, dtypes and shapes survive the message; the views share the buffer's memory."""
    tensors = {"a": torch.randn(3, 5), "b": torch.tensor(7), "c": torch.randn(33).bfloat16(), "d": torch.ones(0, 4), "e": torch.ones(2)}
    buffer = torch.zeros(1024, dtype=torch.uint8)
    places: list[Place] = []
    for name, tensor in tensors.items():
        places.append(Place(name, tensor.dtype, tuple(tensor.shape), places[-1].end if places else 0))
        places[-1].of(buffer).copy_(tensor)
    assert all(place.offset % ALIGNMENT == 0 for place in places)
    assert [place.offset for place in places] == [0, 64, 128, 256, 256]
    found = dict(unpacked(message(places), buffer))
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in tensors.items())
    buffer.zero_()
    assert not found["e"].any()
