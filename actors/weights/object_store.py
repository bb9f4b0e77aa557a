"""Ray's object store: between any nodes, on CPUs and on GPUs, over the connections that Ray has anyway.

The learner's first rank packs its tensors into chunks and puts each chunk into the object store of its node, once for all receivers. Ray
copies it to another node when the first receiver there asks for it; all receivers of a node read the same copy, where it lies. While they
load one chunk the next is packed, and a chunk is freed once all have loaded it: there are at most two. (vLLM keeps a chunk longer until
it has all parts of the layer that the chunk ends in.)

The workers of an engine with several are no Ray actors. Their engine's actor copies each chunk into a file in shared memory for them.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from actors.weights.packing import Place, aligned, message, unpacked
from actors.weights.shm import allocated, map_file
from actors.weights.source import TensorInfo
from actors.weights.transport import Link, LoadsWeights, Receiver, Relay, Sender, Transport
from raypref.errors import SyncError

CHUNK_BYTES = 64 << 20
"""Size of a chunk, unless one tensor is larger."""


class ObjectStoreTransport(Transport):
    name = "object_store"

    def fits(self, device: str, layout: str) -> bool:
        return True

    def sender(self, link: Link) -> Sender:
        return ObjectStoreSender(link)

    def receiver(self, model: LoadsWeights, device: torch.device) -> Receiver:
        return ObjectStoreReceiver(model, device)

    def relay(self, workers: int) -> Relay:
        return FileRelay() if workers > 1 else Relay()


class ObjectStoreSender(Sender):
    """Packs chunks and puts them, on the first rank; the other ranks only take part in the source's gathers."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._chunk: Tensor | None = None
        """(bytes,) uint8, in host memory: the chunk that is packed."""

    def connect(self) -> None:
        size = _chunk_bytes(self._link.source.metadata())
        self._chunk = torch.empty(size, dtype=torch.uint8, pin_memory=torch.cuda.is_available())
        self._link.control.init_weight_transfer_engine({"size_bytes": size})

    def send(self) -> None:
        """Pack and put a chunk, have it loaded, and pack the next one meanwhile."""
        if self._chunk is None:
            for _ in self._link.source:
                pass
            return
        self._link.control.start_weight_update()
        with ThreadPoolExecutor(max_workers=1) as thread:
            loading: Future[None] | None = None
            for places in self._packed(self._chunk):
                if self._link.control.failure is not None:
                    continue
                info = _put(self._chunk, places)
                if loading is not None:
                    loading.result()
                loading = thread.submit(self._link.control.update_weights, info)
                del info
            if loading is not None:
                loading.result()
        self._link.control.finish_weight_update()

    def close(self) -> None:
        self._chunk = None

    def _packed(self, chunk: Tensor) -> Iterator[list[Place]]:
        """Where the tensors lie in ``chunk``, each time that it is full; a tensor is never split."""
        places: list[Place] = []
        for name, tensor in self._link.source:
            if places and places[-1].end + tensor.nbytes > len(chunk):
                yield places
                places = []
            places.append(Place(name, tensor.dtype, tuple(tensor.shape), places[-1].end if places else 0))
            places[-1].of(chunk).copy_(tensor)
        if places:
            yield places


class ObjectStoreReceiver(Receiver):
    """Loads views of the chunk in the object store; in a worker of an engine with several, copies out of the relay's file."""

    def __init__(self, model: LoadsWeights, device: torch.device) -> None:
        self._model = model
        self._device = device
        self._file: Tensor | None = None

    def connect(self, info: Mapping[str, Any]) -> None:
        self._file = map_file(Path(info["path"]), info["size_bytes"]) if "path" in info else None

    def update(self, info: Mapping[str, Any]) -> None:
        """Load the tensors of one chunk. Those in the file are copied: vLLM may keep them, and the next chunk replaces them."""
        if "object" in info:
            self._model.load_weights((name, view.to(self._device)) for name, view in unpacked(info, _get(info["object"])))
        elif self._file is not None:
            self._model.load_weights((name, view.to(self._device, copy=True)) for name, view in unpacked(info, self._file))
        else:
            raise SyncError("sync: weights arrived before init_weight_transfer_engine")

    def close(self) -> None:
        self._file = None


class FileRelay(Relay):
    """Copies every chunk into one file in shared memory, which the workers map."""

    def __init__(self) -> None:
        self._file: Tensor | None = None

    @contextlib.contextmanager
    def connecting(self, info: dict[str, Any]) -> Iterator[dict[str, Any]]:
        with allocated(info["size_bytes"]) as path:
            self._file = map_file(path, info["size_bytes"])
            yield info | {"path": str(path)}

    def updated(self, info: dict[str, Any]) -> dict[str, Any]:
        if self._file is None:
            raise SyncError("sync: weights arrived before init_weight_transfer_engine")
        chunk = _get(info["object"])
        self._file[: len(chunk)].copy_(chunk)
        return {key: value for key, value in info.items() if key != "object"}


def _put(chunk: Tensor, places: Sequence[Place]) -> dict[str, Any]:
    """The message of a chunk that has been put: where its tensors lie, and in which object."""
    import ray

    return message(places) | {"object": ray.put(chunk[: places[-1].end].numpy())}


def _get(reference: Any) -> Tensor:
    """(bytes,) uint8, in the object store itself: to be read only. The object stays there as long as a view of it does."""
    import ray

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(ray.get(reference))


def _chunk_bytes(infos: Sequence[TensorInfo]) -> int:
    """``CHUNK_BYTES``, or the largest tensor, since a tensor is never split."""
    return aligned(max([CHUNK_BYTES, *(math.prod(info.shape) * info.dtype.itemsize for info in infos)]))


TRANSPORT = ObjectStoreTransport()
