"""Weights from the learner to every copy of the policy: the one adapter to vLLM's weight-transfer API.

    source = DeepSpeedSource(engine.module)                      # actors.weights.source, on every learner rank
    publisher = Publisher("nccl", rank, world_size, source, receivers, timeout_s)
    sent = publisher.sync(version)                               # on every rank; blocks until every receiver holds the weights

The first transfer carries every weight; later ones those alone that training changes (with a LoRA adapter: the merged layers). A receiver
keeps the others, and their checksums.

Backends: ``nccl`` (learner and receivers on GPUs of their own), ``ipc`` (each receiver on a GPU that a learner rank uses, too), ``shm``
(CPU, one node; ``actors.weights.shm``). The invariant: when ``sync`` returns, every receiver holds exactly these weights, under this
version, with an empty prefix cache, and has checksums of the tensors as it received them (``weight_checksums``).

A receiver is an actor with the methods of vLLM's control plane: ``init_weight_transfer_engine``, ``start_weight_update``,
``update_weights``, ``finish_weight_update``, ``update_weight_version``. vLLM is imported by ``Publisher``, not by this module.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray

from raypref.roles import Audience

if TYPE_CHECKING:
    from vllm.distributed.weight_transfer.base import TrainerInitInfo

    from actors.weights.source import DeepSpeedSource


@dataclass(frozen=True, slots=True)
class Receiver:
    """An actor that holds a copy of the policy."""

    name: str
    handle: Any
    """Ray actor handle."""
    workers: int = 1
    """Processes that take part in a transfer: an engine's tensor-parallel ranks; 1 for a reference replica."""


class Publisher:
    """The sending side; every learner rank has one, the first rank sends."""

    def __init__(
        self, backend: str, rank: int, world_size: int, source: DeepSpeedSource, receivers: Sequence[Receiver], timeout_s: float
    ) -> None:
        """Connect with the receivers; called on every learner rank at the same time.

        Args:
            backend: ``nccl``, ``ipc`` or ``shm``; the receivers were built for the same one.
            rank: this learner rank.
            world_size: learner ranks.
            source: this rank's weights.
            receivers: who gets them; the same on every rank.
            timeout_s: longest wait for any one answer of the receivers.

        Raises:
            ValueError: there is no receiver or no such backend, or the rank is none of the world's.
        """
        if not receivers:
            raise ValueError("a publisher without receivers")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} of {world_size} learner ranks")
        from vllm.distributed.weight_transfer import WeightTransferTrainerFactory

        import actors.weights.shm  # noqa: F401  registers the transport
        from actors.weights.source import RecordingSource

        self._client = ControlPlane(receivers, timeout_s)
        self._source = RecordingSource(source, active=rank == 0)
        info = _init_info(backend, rank, source, receivers)
        self._engine = WeightTransferTrainerFactory.trainer_init(info, client=self._client, source=self._source)
        self._receivers_hold_all = False

    def sync(self, version: int, audience: Audience = "all") -> dict[str, int]:
        """Put the weights into every receiver as ``version``; called on every learner rank at the same time.

        Returns:
            parameter name -> checksum of what the receivers hold now, as each was last sent; empty on other ranks than the first.

        Raises:
            Exception: a receiver's own error, or ray.exceptions.GetTimeoutError. The receivers are not to be used any more then.
        """
        complete = not self._receivers_hold_all
        self._source.choose(complete=complete)
        self._client.version, self._client.audience, self._client.complete = version, audience, complete
        _finish_pending_work()
        self._engine.send_weights()
        self._receivers_hold_all = True
        return self._source.checksums()

    def send_all(self) -> None:
        """Have the next ``sync`` carry every weight: the receivers have lost theirs, or the learner loaded others."""
        self._receivers_hold_all = False

    def close(self) -> None:
        """Leave the transport's group, free its buffers."""
        self._engine.shutdown()


class ControlPlane:
    """vLLM's ``VLLMWeightSyncClient`` over Ray actors: each call goes to every receiver and waits for all, at most ``timeout_s``.

    Unlike vLLM's own Ray client it gives each receiver its own place in the transfer group (vLLM's assigns all of them the same ranks),
    and never waits for ever.
    """

    def __init__(self, receivers: Sequence[Receiver], timeout_s: float) -> None:
        self.version = 0
        """What the next finished update is called."""
        self.audience: Audience = "all"
        """Which receivers keep the next update."""
        self.complete = True
        """Whether the next update carries every weight."""
        self._receivers = receivers
        self._timeout_s = timeout_s

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        from vllm.distributed.weight_transfer.base import WeightTransferInitRequest

        offsets = rank_offsets(self._receivers)
        own = [init_info | {"rank_offset": offset} if "rank_offset" in init_info else init_info for offset in offsets]
        requests = [WeightTransferInitRequest(init_info=info) for info in own]
        self._wait([r.handle.init_weight_transfer_engine.remote(q) for r, q in zip(self._receivers, requests, strict=True)])

    def start_weight_update(self) -> None:
        """Unlike vLLM's own call this one says whether every weight comes, and which receivers keep them."""
        self._call(lambda handle: handle.start_weight_update.remote(self.complete, self.audience))

    def update_weights(self, update_info: Any) -> None:
        from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

        request = WeightTransferUpdateRequest(update_info=update_info)
        self._call(lambda handle: handle.update_weights.remote(request))

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self._call(lambda handle: handle.finish_weight_update.remote())
        name = str(self.version) if weight_version is None else weight_version
        self._call(lambda handle: handle.update_weight_version.remote(name))

    def _call(self, call: Callable[[Any], Any]) -> None:
        self._wait([call(receiver.handle) for receiver in self._receivers])

    def _wait(self, answers: list[Any]) -> None:
        ray.get(answers, timeout=self._timeout_s)


def _finish_pending_work() -> None:
    """Wait for the optimiser's kernels: vLLM packs on streams of its own, which do not wait for the one that they run on."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def rank_offsets(receivers: Sequence[Receiver]) -> list[int]:
    """The first rank of each receiver in the transfer group, in which the sender is rank 0.

    An engine of two tensor-parallel workers, then two single ones: 1, 3, 4.
    """
    offsets = [1]
    for receiver in receivers[:-1]:
        offsets.append(offsets[-1] + receiver.workers)
    return offsets


def _init_info(backend: str, rank: int, source: DeepSpeedSource, receivers: Sequence[Receiver]) -> TrainerInitInfo:
    if backend == "shm":
        from actors.weights.shm import ShmTrainerInitInfo

        return ShmTrainerInitInfo(rank=rank)
    if backend == "ipc":
        from actors.weights.ipc import StagedIPCInitInfo

        return StagedIPCInitInfo(rank=rank, packed=True, packed_buffer_size_bytes=_buffer_bytes(source))
    if backend == "nccl":
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo
        from vllm.utils.network_utils import get_open_port

        return NCCLTrainerInitInfo(
            rank=rank,
            master_address=ray.util.get_node_ip_address(),
            master_port=get_open_port(),
            world_size=1 + sum(receiver.workers for receiver in receivers),
            packed_buffer_size_bytes=_buffer_bytes(source),
        )
    raise ValueError(f"sync.transport: no transport is called {backend!r}; known: nccl, ipc, shm")


def _buffer_bytes(source: DeepSpeedSource) -> int:
    """Size of a packing buffer: vLLM's default, or the largest tensor (vLLM does not split one)."""
    from vllm.distributed.weight_transfer.packed_tensor import DEFAULT_PACKED_BUFFER_SIZE_BYTES

    largest = max(math.prod(meta.shape) * meta.dtype.itemsize for meta in source.metadata())
    return max(DEFAULT_PACKED_BUFFER_SIZE_BYTES, largest)
