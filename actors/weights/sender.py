"""The learner's side of weight sync: from its ranks to every copy of the policy.

    source = DeepSpeedSource(engine.module)                            # actors.weights.source, on every learner rank
    sender = WeightSender(sync, rank, world_size, source, destinations)
    sent = sender.sync(version)                                        # on every rank; returns when every copy holds the weights

The first sync sends every weight; later ones only those that training changes (with a LoRA adapter: the merged layers). A copy keeps the
others, and their checksums.

The invariant: when ``sync`` returns, every copy holds exactly these weights, under this version, with an empty prefix cache, and has
checksums of the tensors as it received them (``weight_checksums``).

When a copy fails or does not answer in time, ``sync`` raises. The copies hold a mixture of weights then, and no version; the next ``sync``
connects with all of them again and sends every weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from actors.weights import transport
from actors.weights.destination import Destination
from actors.weights.ray_control import RayControl
from raypref.errors import SyncError
from raypref.roles import Audience
from raypref.sections import SyncConfig

if TYPE_CHECKING:
    from actors.weights.source import WeightSource


class WeightSender:
    """Sends the weights; every learner rank has one, the first rank's does the talking."""

    def __init__(self, sync: SyncConfig, rank: int, world_size: int, source: WeightSource, destinations: Sequence[Destination]) -> None:
        """Connect with the copies; called on every learner rank at the same time.

        Args:
            sync: ``transport`` (not ``auto``; the copies were built for the same one) and ``timeout_s``.
            rank: this learner rank.
            world_size: learner ranks.
            source: this rank's weights.
            destinations: the copies; the same on every rank.

        Raises:
            ValueError: there is no copy or no such transport, or the rank is not below the number of ranks.
            SyncError: a copy could not be reached within ``timeout_s``; names it. Another sender may be built then.
        """
        if not destinations:
            raise ValueError("a weight sync without receivers")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} of {world_size} learner ranks")
        from actors.weights.source import RecordingSource

        self._rank = rank
        self._control = RayControl(destinations, sync.transport, sync.timeout_s)
        self._source = RecordingSource(source, active=rank == 0)
        workers = sum(destination.workers for destination in destinations)
        self._sender = transport.load(sync.transport).sender(transport.Link(rank, self._source, self._control, workers))
        self._control.sender = self._sender
        self._copies_hold_all = False
        self._connected = rank > 0
        self._connect()
        if self._control.failure is not None:
            self._sender.close()
            raise self._control.failure

    def sync(self, version: int, audience: Audience = "all", limit_s: float | None = None) -> dict[str, int]:
        """Send the weights to every copy, as ``version``; called on every learner rank at the same time.

        Args:
            version: what the copies call these weights.
            audience: which copies keep them.
            limit_s: longest wait for the copies; default: ``timeout_s``.

        Returns:
            Parameter name -> checksum of what the copies hold now, as each was last sent; empty on other ranks than the first.

        Raises:
            SyncError: on the first rank; names the copy that failed, with its own error, or that did not answer within ``limit_s`` of
                the sync's beginning. The other ranks return: call ``send_all`` there, so that their next ``sync`` sends every weight.
        """
        complete = not self._copies_hold_all
        self._source.choose(complete=complete)
        self._copies_hold_all = False
        self._control.version, self._control.audience, self._control.complete = version, audience, complete
        self._control.begin(limit_s)
        self._connect()
        _finish_pending_work()
        self._connected = self._rank > 0  # unless all goes well
        self._sender.send()
        if self._control.failure is not None:
            raise self._control.failure
        self._connected = True
        self._copies_hold_all = True
        return self._source.checksums()

    def send_all(self) -> None:
        """Make the next ``sync`` send every weight: the copies have lost theirs, or the learner loaded others."""
        self._copies_hold_all = False

    def close(self) -> None:
        """Free the transport's buffers and leave its process groups."""
        self._sender.close()

    def _connect(self) -> None:
        """Reach the copies, unless they are connected already. A failure is left in the control: this rank must not raise while others
        read their source, which may be a collective."""
        if self._connected:
            return
        try:
            self._sender.connect()
        except SyncError as error:
            self._control.failure = error
        self._connected = self._control.failure is None


def _finish_pending_work() -> None:
    """Wait for the optimiser's kernels: vLLM packs on streams of its own, which do not wait for the one that they run on."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
