"""Transports that broadcast: the sender packs its tensors into chunks, and a collective brings each chunk to every receiver at once.

A transport of this kind says how its communicator is built and aborted (``actors.weights.nccl``); who fails, and how all others get out
of a collective that cannot end any more, is ``actors.weights.transfer_group``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from actors.cluster.store import meeting_address
from actors.weights.packing import Place
from actors.weights.source import TensorInfo
from actors.weights.transfer_group import Communicator, TransferGroup, beside, open_store
from actors.weights.transport import Link, LoadsWeights, Receiver, Sender, Transport, buffer_bytes
from raypref.errors import SyncError


class BroadcastTransport(Transport):
    """Its halves are the same for every kind of communicator."""

    connect_s = 60.0
    """How long a receiver tries to reach the sender, in seconds."""

    @abstractmethod
    def invitation(self) -> bytes:
        """What the members of a new group recognise each other by; made by the sender."""

    @abstractmethod
    def join(self, invitation: bytes, rank: int, members: int, device: torch.device) -> Communicator:
        """Build one member's communicator; returns when all members have. May wait for ever."""

    @abstractmethod
    def abort(self, communicator: Any) -> None:
        """End what a communicator is doing and free it; called on another thread."""

    def sender(self, link: Link) -> Sender:
        return BroadcastSender(self, link)

    def receiver(self, model: LoadsWeights, device: torch.device) -> Receiver:
        return BroadcastReceiver(self, model, device)


class BroadcastSender(Sender):
    """Packs and broadcasts, on the first rank; the other ranks only take part in the source's gathers."""

    def __init__(self, transport: BroadcastTransport, link: Link) -> None:
        self._transport = transport
        self._link = link
        self._members = 1 + link.workers
        self._buffer_bytes = buffer_bytes(link.source)
        self._device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
        self._group: TransferGroup | None = None

    def connect(self) -> None:
        """Open a group and have every receiver join it; a group that was there before is left."""
        self.close()
        host = meeting_address()
        store = open_store(host, 0, sender=True, timeout_s=self._transport.connect_s)
        group = self._group = TransferGroup(store, "learner rank 0", 0, self._device, self._transport.abort)
        invitation = self._transport.invitation()
        info = {
            "host": host,
            "port": store.port,
            "invitation": invitation,
            "rank": 1,
            "receiver": "",
            "members": self._members,
            "buffer_bytes": self._buffer_bytes,
        }
        answers = beside(lambda: self._link.control.init_weight_transfer_engine(info))
        group.join(lambda: self._transport.join(invitation, 0, self._members, self._device))
        answers.result()

    def send(self) -> None:
        group = self._group
        if group is None:
            for _ in self._link.source:
                pass
            return
        group.forget(self._members)
        self._link.control.start_weight_update()
        infos = self._link.source.metadata()
        answers = beside(lambda: self._link.control.update_weights(_message(infos)))
        with group.collective():
            self._broadcast(group, _chunks(infos, self._buffer_bytes))
        answers.result()
        self._link.control.finish_weight_update()

    def where(self, receiver: str) -> str:
        return "" if self._group is None else self._group.noted(receiver, self._members)

    def break_off(self, reason: str) -> None:
        if self._group is not None:
            self._group.end(reason)

    def close(self) -> None:
        if self._group is not None:
            self._group.leave()
            self._group = None

    def _broadcast(self, group: TransferGroup, chunks: Sequence[Sequence[Place]]) -> None:
        """While one chunk is on its way the next is packed, into the other of two buffers. Goes on to the source's end in any case."""
        size = max((chunk[-1].end for chunk in chunks), default=0)
        buffers = [torch.empty(size, dtype=torch.uint8, device=self._device) for _ in chunks[:2]]
        sent: list[Any] = [None] * len(buffers)
        tensors = iter(self._link.source)
        for number, chunk in enumerate(chunks):
            slot = number % 2
            group.wait(sent[slot])
            for place in chunk:
                name, tensor = next(tensors)
                if (name, tensor.dtype, tuple(tensor.shape)) != (place.name, place.dtype, place.shape):
                    raise SyncError(f"sync: {name} {tensor.dtype} {tuple(tensor.shape)} came where {place} was declared")
                place.of(buffers[slot]).copy_(tensor)
            sent[slot] = group.broadcast(buffers[slot][: chunk[-1].end])
        for name, _ in tensors:
            raise SyncError(f"sync: {name} was not declared")
        for event in sent:
            group.wait(event)


class BroadcastReceiver(Receiver):
    """Receives the next chunk while the last is loaded. The model may keep views of a chunk: until a layer that ends in the next one is
    whole. So at most three buffers are in use."""

    def __init__(self, transport: BroadcastTransport, model: LoadsWeights, device: torch.device) -> None:
        self._transport = transport
        self._model = model
        self._device = device
        self._buffer_bytes = 0
        self._group: TransferGroup | None = None

    def connect(self, info: Mapping[str, Any]) -> None:
        """Join the sender's group.

        Raises:
            SyncError: the group ended before all had joined; says why.
        """
        self.close()
        self._buffer_bytes = info["buffer_bytes"]
        store = open_store(info["host"], info["port"], sender=False, timeout_s=self._transport.connect_s)
        group = TransferGroup(store, info["receiver"], info["rank"], self._device, self._transport.abort)
        group.join(lambda: self._transport.join(info["invitation"], info["rank"], info["members"], self._device))
        group.check()
        self._group = group

    def update(self, info: Mapping[str, Any]) -> None:
        """Receive and load every chunk.

        Raises:
            SyncError: loading failed here, or another member failed; names it.
        """
        if self._group is None:
            raise SyncError("sync: weights arrived before init_weight_transfer_engine")
        with self._group.collective():
            self._receive(self._group, _chunks(_declared(info), self._buffer_bytes))

    def close(self) -> None:
        if self._group is not None:
            self._group.leave()
            self._group = None

    def _receive(self, group: TransferGroup, chunks: Sequence[Sequence[Place]]) -> None:
        size = max((chunk[-1].end for chunk in chunks), default=0)

        def start(chunk: Sequence[Place]) -> tuple[Tensor, Any]:
            buffer = torch.empty(size, dtype=torch.uint8, device=self._device)
            return buffer, group.broadcast(buffer[: chunk[-1].end])

        coming = start(chunks[0]) if chunks else None
        for number, chunk in enumerate(chunks, 1):
            assert coming is not None
            group.note(number, f"chunk {number} of {len(chunks)}, from {chunk[0].name}")
            buffer, received = coming
            group.wait(received)
            group.check()
            coming = start(chunks[number]) if number < len(chunks) else None
            self._model.load_weights([(place.name, place.of(buffer)) for place in chunk])


def _chunks(infos: Sequence[TensorInfo], limit_bytes: int) -> list[list[Place]]:
    """Where each tensor lies, chunk by chunk: whole tensors, in order, in at most ``limit_bytes``. The same for sender and receivers."""
    chunks: list[list[Place]] = []
    for info in infos:
        after = Place(info.name, info.dtype, info.shape, chunks[-1][-1].end if chunks else 0)
        if not chunks or after.end > limit_bytes:
            chunks.append([Place(info.name, info.dtype, info.shape, 0)])
        else:
            chunks[-1].append(after)
    return chunks


def _message(infos: Sequence[TensorInfo]) -> dict[str, Any]:
    """What the receivers are told of the tensors: plain lists, as vLLM's own messages have them."""
    return {
        "names": [info.name for info in infos],
        "dtype_names": [str(info.dtype).removeprefix("torch.") for info in infos],
        "shapes": [list(info.shape) for info in infos],
    }


def _declared(info: Mapping[str, Any]) -> list[TensorInfo]:
    fields = zip(info["names"], info["dtype_names"], info["shapes"], strict=True)
    return [TensorInfo(name, getattr(torch, dtype), tuple(shape)) for name, dtype, shape in fields]
