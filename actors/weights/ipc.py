"""CUDA IPC: for receivers on GPUs that learner ranks use, too. The sending half is ours, with one staging buffer for its whole life.

vLLM's own sender allocates and exports a buffer for every transfer, and counts on one importer for each export. In a colocated layout an
engine and a reference on one GPU both import it (or nobody does, on a GPU without either), torch's count of the export is then wrong, and
the buffer, a gigabyte, is never freed. A buffer that is exported once and kept needs no such count.

The receiving half is vLLM's ``ipc``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from actors.weights.transport import Link, LoadsWeights, Receiver, Sender, Transport, buffer_bytes

if TYPE_CHECKING:
    import torch


class IpcTransport(Transport):
    name = "ipc"

    def fits(self, device: str, layout: str) -> bool:
        return device == "cuda" and layout == "colocated"

    def sender(self, link: Link) -> Sender:
        return StagedIpcSender(link)

    def receiver(self, model: LoadsWeights, device: torch.device) -> Receiver:
        from actors.weights.vllm_adapters import VllmReceiver

        return VllmReceiver(self.name, model, device)

    def register(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class PackedTensor:
    """One tensor in the staging buffer."""

    name: str
    dtype_name: str
    shape: list[int]
    size_bytes: int


class StagedIpcSender(Sender):
    """Fills the buffer and has the receivers read it, again and again. Every learner rank fills one, for the receivers on its GPU."""

    def __init__(self, link: Link) -> None:
        import torch

        self._link = link
        self._buffer_bytes = buffer_bytes(link.source)
        self._gpu = str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)
        self._staging: torch.Tensor | None = None
        self._export: tuple[Any, ...] = ()
        """What another process needs to open the buffer."""

    def connect(self) -> None:
        self._link.control.init_weight_transfer_engine({"packed": True})

    def send(self) -> None:
        if self._link.rank == 0:
            self._link.control.start_weight_update()
        self._send_packed(self._link.source)
        if self._link.rank == 0:
            self._link.control.finish_weight_update()
        _wait_for_all_ranks()

    def close(self) -> None:
        self._staging, self._export = None, ()

    def _send_packed(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Fill the buffer, ship it, fill it again; a tensor is never split, so the buffer holds the largest."""
        import torch
        from torch.multiprocessing.reductions import reduce_tensor

        if self._staging is None:
            self._staging = torch.empty(self._buffer_bytes, dtype=torch.uint8, device="cuda")
            _, self._export = reduce_tensor(self._staging)
        chunk: list[PackedTensor] = []
        filled = 0
        for name, tensor in weights:
            raw = tensor.detach().contiguous().view(-1).view(torch.uint8)
            if filled + raw.numel() > self._buffer_bytes:
                self._ship(chunk)
                chunk, filled = [], 0
            self._staging[filled : filled + raw.numel()].copy_(raw)
            chunk.append(PackedTensor(name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape), raw.numel()))
            filled += raw.numel()
        if chunk:
            self._ship(chunk)

    def _ship(self, chunk: list[PackedTensor]) -> None:
        """Have every receiver read the buffer of its GPU; returns on all ranks when all have, and the buffers may be overwritten."""
        import torch

        torch.cuda.current_stream().synchronize()
        exports = self._exports()
        if self._link.rank == 0:
            self._link.control.update_weights(
                {
                    "names": [packed.name for packed in chunk],
                    "dtype_names": [packed.dtype_name for packed in chunk],
                    "shapes": [packed.shape for packed in chunk],
                    "ipc_handles": exports,
                    "tensor_sizes": [packed.size_bytes for packed in chunk],
                }
            )
        _wait_for_all_ranks()

    def _exports(self) -> dict[str, tuple[Any, ...]]:
        """GPU -> how to open the buffer there, of all ranks."""
        import torch

        mine = {self._gpu: self._export}
        if not _several_ranks():
            return mine
        gathered: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(gathered, mine)
        torch.distributed.barrier()
        torch.cuda.synchronize()
        return {gpu: export for exports in gathered for gpu, export in exports.items()}


def _several_ranks() -> bool:
    import torch

    return torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1


def _wait_for_all_ranks() -> None:
    """Returns when every rank is here: until then receivers may still read another rank's buffer."""
    import torch

    if _several_ranks():
        torch.distributed.barrier()
    torch.cuda.ipc_collect()


TRANSPORT = IpcTransport()
