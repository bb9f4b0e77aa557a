"""Who receives the weights: the actors that hold a copy of the policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Destination:
    """An actor that holds a copy of the policy.

    It has the methods ``init_weight_transfer_engine``, ``start_weight_update``, ``update_weights``, ``finish_weight_update`` and
    ``update_weight_version``, as vLLM calls them.
    """

    name: str
    handle: Any
    """Ray actor handle."""
    workers: int = 1
    """Processes that take part in a transfer: an engine's tensor-parallel ranks; 1 for a reference replica."""


def rank_offsets(destinations: Sequence[Destination]) -> list[int]:
    """The first rank of each copy in the transfer group, in which the sender is rank 0.

    An engine of two tensor-parallel workers, then two single ones: 1, 3, 4.
    """
    offsets = [1]
    for destination in destinations[:-1]:
        offsets.append(offsets[-1] + destination.workers)
    return offsets
