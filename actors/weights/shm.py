"""The CPU transport: one more engine in vLLM's weight-transfer registries, ``shm``.

The learner's first rank copies its weights into a shared-memory file that the receivers have mapped, then tells them where each tensor
lies. Learner and receivers are on one node. The file has no name any more once every receiver has mapped it, so that nothing stays in
/dev/shm however the run ends.

Importing this module registers both halves. An engine's spawned tensor-parallel workers import it by way of ``WorkerExtension``.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import tempfile
import weakref
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from vllm.distributed.weight_transfer import WeightTransferEngineFactory, WeightTransferTrainerFactory
from vllm.distributed.weight_transfer.base import (
    ParamMeta,
    TrainerInitInfo,
    TrainerWeightTransferEngine,
    VLLMWeightSyncClient,
    WeightSource,
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)

from raypref.errors import SyncError

logger = logging.getLogger(__name__)

BACKEND = "shm"
_ALIGNMENT = 64
"""Every tensor starts at a multiple of so many bytes."""
_MEMORY_DIR = Path("/dev/shm")


@dataclass
class ShmInitInfo(WeightTransferInitInfo):
    """Where the file is that every receiver maps."""

    path: str
    size_bytes: int


@dataclass
class ShmUpdateInfo(WeightTransferUpdateInfo):
    """Where in the file each tensor of this update lies; parallel lists."""

    names: list[str]
    dtype_names: list[str]
    shapes: list[list[int]]
    offsets: list[int]
    """In bytes."""


@dataclass
class ShmTrainerInitInfo(TrainerInitInfo):
    """The sending side needs its rank alone."""

    backend: ClassVar[str] = BACKEND


class ShmWeightTransferEngine(WeightTransferEngine[ShmInitInfo, ShmUpdateInfo]):
    """The receiving half: loads views of the mapped file into the model, layer by layer."""

    init_info_cls = ShmInitInfo
    update_info_cls = ShmUpdateInfo
    _buffer: Tensor | None = None

    def init_transfer_engine(self, init_info: ShmInitInfo) -> None:
        """Map the file and touch its pages, so that the first sync does not pay for the page faults.

        Raises:
            SyncError: the file is not on this node.
        """
        if not Path(init_info.path).exists():
            raise SyncError(
                f"sync.transport: {init_info.path} is not on this node; shm needs the learner and its receivers on one node, nccl does not"
            )
        self._buffer = _map(Path(init_info.path), init_info.size_bytes)
        self._buffer[:: os.sysconf("SC_PAGE_SIZE")].sum()

    def start_weight_update(self) -> None:
        if not self._is_vllm_model():
            return
        from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """As the base class does it, but without waiting for an accelerator, which there may not be."""
        self.receive_weights(self.parse_update_info(update_info))

    def receive_weights(self, update_info: ShmUpdateInfo) -> None:
        if self._buffer is None:
            raise SyncError("sync: weights arrived before init_weight_transfer_engine")
        fields = zip(update_info.names, update_info.dtype_names, update_info.shapes, update_info.offsets, strict=True)
        views = [(name, _view(self._buffer, getattr(torch, dtype), shape, offset)) for name, dtype, shape, offset in fields]
        self.model.load_weights(views)

    def finish_weight_update(self) -> None:
        if not self._is_vllm_model():
            return
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

        finalize_layerwise_reload(self.model, self.model_config)
        _repack_tied_heads(self.model)

    def shutdown(self) -> None:
        self._buffer = None

    def _is_vllm_model(self) -> bool:
        """False for a target without parameters of its own, which needs no reload (``actors.reference.actor``)."""
        return next(self.model.parameters(), None) is not None


class ShmTrainerWeightTransferEngine(TrainerWeightTransferEngine[ShmTrainerInitInfo]):
    """The sending half; on other ranks than the first it only takes part in the source's gathers."""

    init_info_cls = ShmTrainerInitInfo

    def __init__(self, *, client: VLLMWeightSyncClient, source: WeightSource, is_sender: bool) -> None:
        super().__init__(client=client, source=source, is_sender=is_sender)
        self._layout, self._size_bytes = _layout(source.metadata())
        self._buffer: Tensor | None = None

    @classmethod
    def trainer_init(cls, init_info: ShmTrainerInitInfo, *, client: VLLMWeightSyncClient, source: WeightSource | None = None) -> Self:
        """Create the file, have every receiver map it, and remove its name."""
        if source is None:
            raise ValueError("the shm transport sends a WeightSource; got none")
        engine = cls(client=client, source=source, is_sender=init_info.is_sender)
        if engine.is_sender:
            engine._open()
        return engine

    def send_weights(self) -> None:
        """Copy what the source gives into the file, each tensor to its place; then one update round trip."""
        names = []
        for name, tensor in self.source:
            if self._buffer is None:
                continue
            names.append(name)
            meta, offset = self._layout[name]
            if tensor.dtype != meta.dtype or tuple(tensor.shape) != meta.shape:
                raise SyncError(f"sync: {name} is {tensor.dtype} {tuple(tensor.shape)}, but was declared {meta.dtype} {meta.shape}")
            _view(self._buffer, meta.dtype, meta.shape, offset).copy_(tensor)
        if self.is_sender:
            self.client.start_weight_update()
            self.client.update_weights(asdict(self._update_info(names)))
            self.client.finish_weight_update()

    def shutdown(self) -> None:
        self._buffer = None

    def _open(self) -> None:
        path = _allocate(self._size_bytes)
        remove = weakref.finalize(self, path.unlink, missing_ok=True)  # also at exit, should the hand-shake fail
        try:
            self._buffer = _map(path, self._size_bytes)
            self._buffer.zero_()
            self.client.init_weight_transfer_engine(asdict(ShmInitInfo(str(path), self._size_bytes)))
        finally:
            remove()

    def _update_info(self, names: list[str]) -> ShmUpdateInfo:
        metas, offsets = zip(*(self._layout[name] for name in names), strict=True)
        return ShmUpdateInfo(
            names=names,
            dtype_names=[str(meta.dtype).removeprefix("torch.") for meta in metas],
            shapes=[list(meta.shape) for meta in metas],
            offsets=list(offsets),
        )


def register() -> None:
    """Make ``shm`` known to vLLM in this process; a second call changes nothing."""
    for factory, engine in (
        (WeightTransferEngineFactory, ShmWeightTransferEngine),
        (WeightTransferTrainerFactory, ShmTrainerWeightTransferEngine),
    ):
        if BACKEND not in factory._registry:  # there is no public question
            factory.register_engine(BACKEND, engine)


def _layout(metas: list[ParamMeta]) -> tuple[dict[str, tuple[ParamMeta, int]], int]:
    """Name -> (its metadata, its offset in bytes), and the bytes of all."""
    layout, end = {}, 0
    for meta in metas:
        layout[meta.name] = (meta, end)
        size = math.prod(meta.shape) * meta.dtype.itemsize
        end += -(-size // _ALIGNMENT) * _ALIGNMENT
    return layout, max(end, _ALIGNMENT)


def _allocate(size_bytes: int) -> Path:
    """A file of that size with its blocks reserved, in shared memory if there is room, else among the temporary files.

    Raises:
        SyncError: there is room in neither.
    """
    places = [place for place in (_MEMORY_DIR, Path(tempfile.gettempdir())) if place.is_dir()]
    for place in places:
        if shutil.disk_usage(place).free < size_bytes:
            logger.warning("%s has no room for %d bytes of weights", place, size_bytes)
            continue
        descriptor, name = tempfile.mkstemp(prefix="raypref-weights-", dir=place)
        try:
            os.posix_fallocate(descriptor, 0, size_bytes)  # else a full file system kills the process when it writes
        except OSError:
            Path(name).unlink()
            raise
        finally:
            os.close(descriptor)
        return Path(name)
    raise SyncError(f"sync.transport: the weights take {size_bytes} bytes of shared memory; free some in {' or '.join(map(str, places))}")


def _map(path: Path, size_bytes: int) -> Tensor:
    """(size_bytes,) uint8, shared with every process that maps the file."""
    return torch.from_file(str(path), shared=True, size=size_bytes, dtype=torch.uint8)


def _view(buffer: Tensor, dtype: torch.dtype, shape: Any, offset: int) -> Tensor:
    size = math.prod(shape) * dtype.itemsize
    return buffer[offset : offset + size].view(dtype).view(tuple(shape))


def _repack_tied_heads(model: torch.nn.Module) -> None:
    """Pack a tied output head's weights again: it receives none of its own, so that the reload leaves its packed copy as it was."""
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

    for module in model.modules():
        if isinstance(module, ParallelLMHead) and hasattr(module, "cpu_linear"):
            module.quant_method.process_weights_after_loading(module)


register()
