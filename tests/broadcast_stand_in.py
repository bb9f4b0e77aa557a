"""A stand-in for NCCL on a CPU, and actors that send and receive by it. A module to themselves, because Ray's workers import it.

The stand-in keeps what matters of NCCL: building a communicator and every collective wait for all members, without a time limit; aborting
it from another thread ends what it is doing, and leaves whatever stands in the buffers; a disabled one does nothing.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed import TCPStore

from actors.weights import nccl, transport
from actors.weights.broadcast import BroadcastTransport
from actors.weights.destination import Destination
from actors.weights.sender import WeightSender
from actors.weights.source import TensorInfo, WeightSource
from actors.weights.transfer_group import Communicator, beside, open_store
from raypref.errors import SyncError
from raypref.sections import SyncConfig

CHUNKS = 5


class StandInCommunicator:
    """The interface of vLLM's ``PyNcclCommunicator``, over a store."""

    def __init__(self, store: TCPStore, rank: int, members: int) -> None:
        self.disabled = False
        self.aborted = False
        self._store, self._rank, self._members = store, rank, members
        self._broadcasts = 0
        self._all_have("joined")

    def broadcast(self, tensor: Tensor, src: int, stream: Any = None) -> None:
        if self.disabled:
            return
        self._broadcasts += 1
        key = f"broadcast/{self._broadcasts}"
        if self._rank == src:
            self._store.set(key, tensor.numpy().tobytes().hex())
        self._wait(lambda: self._store.check([key]))
        if not self.aborted and self._rank != src:
            tensor.copy_(torch.frombuffer(bytearray.fromhex(self._store.get(key).decode()), dtype=torch.uint8))
        self._all_have(f"done/{self._broadcasts}")

    def _all_have(self, key: str) -> None:
        self._store.add(key, 1)
        self._wait(lambda: self._store.add(key, 0) == self._members)

    def _wait(self, condition: Callable[[], bool]) -> None:
        while not self.aborted and not condition():
            time.sleep(0.005)


class StandInTransport(BroadcastTransport):
    name = "nccl"

    def fits(self, device: str, layout: str) -> bool:
        return True

    def invitation(self) -> bytes:
        self.meeting_place = open_store("127.0.0.1", 0, sender=True, timeout_s=60)
        return str(self.meeting_place.port).encode()

    def join(self, invitation: bytes, rank: int, members: int, device: torch.device) -> Communicator:
        return StandInCommunicator(open_store("127.0.0.1", int(invitation), sender=False, timeout_s=60), rank, members)

    def abort(self, communicator: Any) -> None:
        communicator.aborted = True


class Weights(WeightSource):
    """One tensor for each chunk."""

    complete = True

    def __init__(self) -> None:
        self.version = 0

    def metadata(self) -> list[TensorInfo]:
        return [TensorInfo(f"w.{k}", torch.float32, (16,)) for k in range(1, CHUNKS + 1)]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        for k in range(1, CHUNKS + 1):
            yield f"w.{k}", torch.full((16,), float(10 * self.version + k))


class Learner:
    """Sends ``Weights``."""

    def __init__(self) -> None:
        nccl.TRANSPORT = StandInTransport()  # type: ignore[assignment]
        transport.BUFFER_BYTES = 64
        self._source: Any = Weights()

    def connect(self, destinations: Sequence[Destination], timeout_s: float) -> None:
        self._sender = WeightSender(SyncConfig(transport="nccl", timeout_s=timeout_s), 0, 1, self._source, destinations)

    def sync(self, version: int) -> tuple[int, int]:
        """Sync; how many tensors were sent, and how many were read of the source since."""
        self._source.version = version
        return len(self._sender.sync(version)), CHUNKS


class Copies:
    """Stands in for an engine of one or more workers that keep what they receive. One of them can be made to fail."""

    def __init__(self, workers: int = 1) -> None:
        self.held: list[dict[str, float]] = [{} for _ in range(workers)]
        self.version: str | None = None
        self.fault: tuple[str, str] = ("", "")
        way = StandInTransport()
        self._receivers = [way.receiver(_Model(self, worker), torch.device("cpu")) for worker in range(workers)]

    def plan(self, stage: str, fault: str) -> None:
        """Have the last worker ``raise``, ``stop`` or ``die`` at a stage: ``connect``, or the name of a tensor."""
        self.fault = (stage, fault)

    def pid(self) -> int:
        return os.getpid()

    def state(self) -> tuple[str | None, list[dict[str, float]]]:
        return self.version, self.held

    def init_weight_transfer_engine(self, request: Any) -> None:
        self.happen("connect")
        info = request["init_info"]
        several = len(self._receivers) > 1
        self._on_workers(
            lambda k: self._receivers[k].connect(
                info | {"rank": info["rank"] + k, "receiver": f"{info['receiver']}/tp{k}" if several else info["receiver"]}
            )
        )

    def start_weight_update(self, complete: bool, audience: str) -> None:
        self.version = None
        self._on_workers(lambda k: self._receivers[k].begin())

    def update_weights(self, request: Any) -> None:
        self._on_workers(lambda k: self._receivers[k].update(request["update_info"]))

    def finish_weight_update(self) -> None:
        self._on_workers(lambda k: self._receivers[k].finish())

    def update_weight_version(self, version: str) -> None:
        self.version = version

    def happen(self, stage: str) -> None:
        at, fault = self.fault
        if stage != at:
            return
        self.fault = ("", "")
        if fault == "raise":
            raise MemoryError("no room")
        if fault == "die":
            os._exit(1)
        os.kill(os.getpid(), signal.SIGSTOP)

    def _on_workers(self, call: Callable[[int], None]) -> None:
        """As ``Engine`` does it: all workers answer, and an error that is no consequence of another's is raised."""
        answers = [beside(lambda k=k: call(k)) for k in range(len(self._receivers))]  # type: ignore[misc]
        if errors := [error for answer in answers if (error := answer.exception()) is not None]:
            raise min(errors, key=lambda error: transport.BROKEN_OFF in str(error))


class _Model:
    def __init__(self, copies: Copies, worker: int) -> None:
        self._copies, self._worker = copies, worker

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        for name, tensor in weights:
            if self._worker == len(self._copies.held) - 1:
                self._copies.happen(name)
            if len(set(tensor.tolist())) != 1:
                raise SyncError(f"{name} is a mixture")
            self._copies.held[self._worker][name] = float(tensor[0])
