"""Places in the transfer group, and what a publisher refuses."""

from __future__ import annotations

import pytest

from actors.weights.publisher import Publisher, Receiver, rank_offsets


def test_offsets_leave_room_for_tensor_parallel_workers() -> None:
    """The sender is rank 0; an engine of two workers takes 1 and 2, one of four 3 to 6, the reference 7."""
    receivers = [Receiver("rollout-0", None, 2), Receiver("rollout-1", None, 4), Receiver("reference-0", None)]
    assert rank_offsets(receivers) == [1, 3, 7]


def test_publisher_refuses_what_cannot_work() -> None:
    with pytest.raises(ValueError, match="without receivers"):
        Publisher("shm", 0, 1, None, [], 1.0)
    with pytest.raises(ValueError, match="rank 2 of 2"):
        Publisher("shm", 2, 2, None, [Receiver("rollout-0", None)], 1.0)
