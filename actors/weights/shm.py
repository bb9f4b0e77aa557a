"""Shared memory: for a learner and receivers on the CPUs of one node.

The learner's first rank copies its weights into a shared-memory file that the receivers have mapped, then tells them where each tensor
lies. The file has no name, so nothing stays in /dev/shm however the run ends.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from actors.weights.packing import ALIGNMENT, Place, message, unpacked
from actors.weights.source import TensorInfo
from actors.weights.transport import Link, LoadsWeights, Receiver, Sender, Transport
from raypref.errors import SyncError

logger = logging.getLogger(__name__)

_MEMORY_DIR = Path("/dev/shm")


class ShmTransport(Transport):
    name = "shm"
    one_node = True

    def fits(self, device: str, layout: str) -> bool:
        return device == "cpu"

    def sender(self, link: Link) -> Sender:
        return ShmSender(link)

    def receiver(self, model: LoadsWeights, device: torch.device) -> Receiver:
        return ShmReceiver(model)


class ShmSender(Sender):
    """Writes into the file, on the first rank; the other ranks only take part in the source's gathers."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._places = _side_by_side(link.source.metadata())
        self._size_bytes = max((place.end for place in self._places.values()), default=0) or ALIGNMENT
        self._buffer: Tensor | None = None

    def connect(self) -> None:
        """Create the file and have every receiver map it."""
        with allocated(self._size_bytes) as path:
            self._buffer = map_file(path, self._size_bytes)
            self._buffer.zero_()
            inode = path.stat().st_ino
            self._link.control.init_weight_transfer_engine({"path": str(path), "inode": inode, "size_bytes": self._size_bytes})

    def send(self) -> None:
        """Copy what the source gives into the file, each tensor to its place; then one update round trip."""
        sent = []
        for name, tensor in self._link.source:
            if self._buffer is None:
                continue
            place = self._places[name]
            if tensor.dtype != place.dtype or tuple(tensor.shape) != place.shape:
                raise SyncError(f"sync: {name} is {tensor.dtype} {tuple(tensor.shape)}, but was declared {place.dtype} {place.shape}")
            place.of(self._buffer).copy_(tensor)
            sent.append(place)
        if self._buffer is not None:
            self._link.control.start_weight_update()
            self._link.control.update_weights(message(sent))
            self._link.control.finish_weight_update()

    def close(self) -> None:
        self._buffer = None


class ShmReceiver(Receiver):
    """Loads views of the mapped file into the model."""

    def __init__(self, model: LoadsWeights) -> None:
        self._model = model
        self._buffer: Tensor | None = None

    def connect(self, info: Mapping[str, Any]) -> None:
        """Map the file and touch its pages, so that the first sync does not pay for the page faults.

        Raises:
            SyncError: the file is not on this node.
        """
        path = Path(info["path"])
        if not path.exists() or path.stat().st_ino != info["inode"]:
            raise SyncError(
                f"sync.transport: {path} is not on this node; shm needs the learner and its receivers on one node; object_store does not"
            )
        self._buffer = map_file(path, info["size_bytes"])
        self._buffer[:: os.sysconf("SC_PAGE_SIZE")].sum()

    def update(self, info: Mapping[str, Any]) -> None:
        if self._buffer is None:
            raise SyncError("sync: weights arrived before init_weight_transfer_engine")
        self._model.load_weights(list(unpacked(info, self._buffer)))

    def close(self) -> None:
        self._buffer = None


def _side_by_side(infos: Sequence[TensorInfo]) -> dict[str, Place]:
    """Name -> the tensor's place."""
    places: dict[str, Place] = {}
    end = 0
    for info in infos:
        places[info.name] = Place(info.name, info.dtype, info.shape, end)
        end = places[info.name].end
    return places


@contextlib.contextmanager
def allocated(size_bytes: int) -> Iterator[Path]:
    """A file of that size with its blocks reserved, in shared memory if there is room, else among the temporary files.

    It has no name, so it is gone with the last process that maps it, however that one ends. Within the block the path leads the other
    processes of this node to it.

    Raises:
        SyncError: there is room in neither.
    """
    places = [place for place in (_MEMORY_DIR, Path(tempfile.gettempdir())) if place.is_dir()]
    for place in places:
        if shutil.disk_usage(place).free < size_bytes:
            logger.warning("%s has no room for %d bytes of weights", place, size_bytes)
            continue
        with tempfile.TemporaryFile(dir=place) as file:
            os.posix_fallocate(file.fileno(), 0, size_bytes)  # else a full file system kills the process when it writes
            yield Path(f"/proc/{os.getpid()}/fd/{file.fileno()}")
        return
    raise SyncError(f"sync.transport: the weights take {size_bytes} bytes of shared memory; free some in {' or '.join(map(str, places))}")


def map_file(path: Path, size_bytes: int) -> Tensor:
    """(size_bytes,) uint8, shared with every process that maps the file."""
    return torch.from_file(str(path), shared=True, size=size_bytes, dtype=torch.uint8)


TRANSPORT = ShmTransport()
