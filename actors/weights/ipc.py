"""CUDA IPC with one staging buffer for the publisher's life.

vLLM's own sender allocates and exports a buffer for every transfer, and counts on one importer for each export. In a colocated layout an
engine and a reference on one GPU both import it (or nobody does, on a GPU without either), torch's count of the export is then wrong, and
the buffer, a gigabyte, is never freed. A buffer that is exported once and kept needs no such count.

Importing this module imports vLLM and registers the sender; receivers use vLLM's own ``ipc``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.multiprocessing.reductions import reduce_tensor
from vllm.distributed.weight_transfer import WeightTransferTrainerFactory
from vllm.distributed.weight_transfer.base import WeightSource
from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo, IPCTrainerWeightTransferEngine


@dataclass(frozen=True, slots=True)
class Packed:
    """One tensor in the staging buffer."""

    name: str
    dtype_name: str
    shape: list[int]
    size_bytes: int


@dataclass
class StagedIPCInitInfo(IPCTrainerInitInfo):
    """Chooses ``StagedIPCTrainer``."""

    backend: ClassVar[str] = "ipc_staged"


class StagedIPCTrainer(IPCTrainerWeightTransferEngine):
    """vLLM's packed IPC sender over a buffer that it keeps; runs on every learner rank."""

    _staging: torch.Tensor | None = None
    _export: tuple[Any, ...] = ()

    def _send_packed(self, source: WeightSource) -> None:
        """Fill the buffer, ship it, fill it again; a tensor is never split, so the buffer holds the largest."""
        if self._staging is None:
            self._staging = torch.empty(self.packed_buffer_size_bytes, dtype=torch.uint8, device="cuda")
            _, self._export = reduce_tensor(self._staging)
        chunk: list[Packed] = []
        filled = 0
        for name, tensor in source:
            raw = tensor.detach().contiguous().view(-1).view(torch.uint8)
            if filled + raw.numel() > self.packed_buffer_size_bytes:
                self._ship(chunk)
                chunk, filled = [], 0
            self._staging[filled : filled + raw.numel()].copy_(raw)
            chunk.append(Packed(name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape), raw.numel()))
            filled += raw.numel()
        if chunk:
            self._ship(chunk)

    def _ship(self, chunk: list[Packed]) -> None:
        """Have every receiver read the buffer; returns on all ranks when all have, and the buffer may be overwritten."""
        torch.cuda.current_stream().synchronize()
        handles = self._all_gather_and_merge_handles([{self.gpu_uuid: self._export}])[0]
        self._do_send(
            names=[packed.name for packed in chunk],
            dtype_names=[packed.dtype_name for packed in chunk],
            shapes=[packed.shape for packed in chunk],
            ipc_handles=handles,
            tensor_sizes=[packed.size_bytes for packed in chunk],
        )
        self._post_send_sync()


WeightTransferTrainerFactory.register_engine(StagedIPCInitInfo.backend, StagedIPCTrainer)
