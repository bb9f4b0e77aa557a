"""The learner's side of weight sync: from its ranks to every copy of the policy.

    source = DeepSpeedSource(engine.module)                            # actors.weights.source, on every learner rank
    sender = WeightSender(sync, rank, world_size, source, destinations)
    sent = sender.sync(version)                                        # on every rank; returns when every copy holds the weights

The first sync sends every weight; later ones only those that training changes (with a LoRA adapter: the merged layers). A copy keeps the
others, and their checksums.

The invariant: when ``sync`` returns, every copy holds exactly these weights, under this version, with an empty prefix cache, and has
checksums of the tensors as it received them (``weight_checksums``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray

from actors.weights import transport
from raypref.roles import Audience
from raypref.sections import SyncConfig

if TYPE_CHECKING:
    from actors.weights.source import DeepSpeedSource


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


class WeightSender:
    """Sends the weights; every learner rank has one, the first rank's does the talking."""

    def __init__(self, sync: SyncConfig, rank: int, world_size: int, source: DeepSpeedSource, destinations: Sequence[Destination]) -> None:
        """Connect with the copies; called on every learner rank at the same time.

        Args:
            sync: ``transport`` (not ``auto``; the copies were built for the same one), and ``timeout_s`` of any one answer of theirs.
            rank: this learner rank.
            world_size: learner ranks.
            source: this rank's weights.
            destinations: the copies; the same on every rank.

        Raises:
            ValueError: there is no copy or no such transport, or the rank is not below the number of ranks.
        """
        if not destinations:
            raise ValueError("a weight sync without receivers")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} of {world_size} learner ranks")
        from actors.weights.source import RecordingSource

        self._control = RayControl(destinations, sync.timeout_s)
        self._source = RecordingSource(source, active=rank == 0)
        workers = sum(destination.workers for destination in destinations)
        self._sender = transport.load(sync.transport).sender(transport.Link(rank, self._source, self._control, workers))
        self._copies_hold_all = False

    def sync(self, version: int, audience: Audience = "all") -> dict[str, int]:
        """Send the weights to every copy, as ``version``; called on every learner rank at the same time.

        Args:
            version: what the copies call these weights.
            audience: which copies keep them.

        Returns:
            Parameter name -> checksum of what the copies hold now, as each was last sent; empty on other ranks than the first.

        Raises:
            Exception: a copy's own error, or ray.exceptions.GetTimeoutError. The copies must not be used any more then.
        """
        complete = not self._copies_hold_all
        self._source.choose(complete=complete)
        self._control.version, self._control.audience, self._control.complete = version, audience, complete
        _finish_pending_work()
        self._sender.send()
        self._copies_hold_all = True
        return self._source.checksums()

    def send_all(self) -> None:
        """Make the next ``sync`` send every weight: the copies have lost theirs, or the learner loaded others."""
        self._copies_hold_all = False

    def close(self) -> None:
        """Free the transport's buffers and leave its process groups."""
        self._sender.close()


class RayControl:
    """``actors.weights.transport.Control`` over Ray actors: each call goes to every copy and waits for all, at most ``timeout_s``.

    Unlike vLLM's own Ray client it gives each copy different ranks in the transfer group (vLLM's assigns all of them the same ones), and
    never waits for ever.
    """

    def __init__(self, destinations: Sequence[Destination], timeout_s: float) -> None:
        self.version = 0
        """What the next finished sync is called."""
        self.audience: Audience = "all"
        """Which copies keep the next sync's weights."""
        self.complete = True
        """Whether the next sync sends every weight."""
        self._destinations = destinations
        self._timeout_s = timeout_s

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        offsets = rank_offsets(self._destinations)
        infos = [init_info | {"rank_offset": offset} if "rank_offset" in init_info else init_info for offset in offsets]
        pairs = zip(self._destinations, infos, strict=True)
        self._wait([copy.handle.init_weight_transfer_engine.remote({"init_info": info}) for copy, info in pairs])

    def start_weight_update(self) -> None:
        """Unlike vLLM's own call this one says whether every weight comes, and which copies keep them."""
        self._call(lambda handle: handle.start_weight_update.remote(self.complete, self.audience))

    def update_weights(self, update_info: Any) -> None:
        self._call(lambda handle: handle.update_weights.remote({"update_info": update_info}))

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self._call(lambda handle: handle.finish_weight_update.remote())
        name = str(self.version) if weight_version is None else weight_version
        self._call(lambda handle: handle.update_weight_version.remote(name))

    def _call(self, call: Callable[[Any], Any]) -> None:
        self._wait([call(copy.handle) for copy in self._destinations])

    def _wait(self, answers: list[Any]) -> None:
        ray.get(answers, timeout=self._timeout_s)


def _finish_pending_work() -> None:
    """Wait for the optimiser's kernels: vLLM packs on streams of its own, which do not wait for the one that they run on."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def rank_offsets(destinations: Sequence[Destination]) -> list[int]:
    """The first rank of each copy in the transfer group, in which the sender is rank 0.

    An engine of two tensor-parallel workers, then two single ones: 1, 3, 4.
    """
    offsets = [1]
    for destination in destinations[:-1]:
        offsets.append(offsets[-1] + destination.workers)
    return offsets
