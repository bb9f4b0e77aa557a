"""Ranks in the transfer group, and what a sender refuses."""

from __future__ import annotations

from typing import Any

import pytest

from actors.weights.destination import Destination, rank_offsets
from actors.weights.sender import WeightSender
from raypref.sections import SyncConfig

NO_SOURCE: Any = None


def test_offsets_leave_room_for_tensor_parallel_workers() -> None:
    """The sender is rank 0; an engine of two workers takes 1 and 2, one of four 3 to 6, the reference 7."""
    destinations = [Destination("rollout-0", None, 2), Destination("rollout-1", None, 4), Destination("reference-0", None)]
    assert rank_offsets(destinations) == [1, 3, 7]


def test_sender_refuses_what_cannot_work() -> None:
    sync = SyncConfig(transport="shm")
    with pytest.raises(ValueError, match="without receivers"):
        WeightSender(sync, 0, 1, NO_SOURCE, [])
    with pytest.raises(ValueError, match="rank 2 of 2"):
        WeightSender(sync, 2, 2, NO_SOURCE, [Destination("rollout-0", None)])
    with pytest.raises(ValueError, match="no transport is called 'auto'; known: nccl, ipc, shm"):
        WeightSender(SyncConfig(), 0, 1, NO_SOURCE, [Destination("rollout-0", None)])
