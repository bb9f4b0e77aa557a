"""NCCL broadcast: for a learner and receivers on GPUs of their own, on any nodes. The communicator is vLLM's."""

from __future__ import annotations

from typing import Any

import torch

from actors.weights.broadcast import BroadcastTransport
from actors.weights.transfer_group import Communicator
from raypref.errors import SyncError


class NcclTransport(BroadcastTransport):
    name = "nccl"

    def fits(self, device: str, layout: str) -> bool:
        return device == "cuda" and layout == "separate"

    def invitation(self) -> bytes:
        """NCCL's unique id. It travels with the other settings, so that members need no meeting place of their own for it."""
        from vllm.distributed.device_communicators.pynccl_wrapper import NCCLLibrary
        from vllm.utils.nccl import unpinned_nccl_env

        with unpinned_nccl_env():
            return bytes(NCCLLibrary().ncclGetUniqueId().internal)

    def join(self, invitation: bytes, rank: int, members: int, device: torch.device) -> Communicator:
        from vllm.distributed.weight_transfer.nccl_common import uid_init_process_group

        communicator: Communicator = uid_init_process_group(invitation, rank, members, device)
        if communicator.disabled:
            raise SyncError("sync.transport: nccl: vLLM's communicator is switched off (VLLM_DISABLE_PYNCCL)")
        return communicator

    def abort(self, communicator: Any) -> None:
        """``PyNcclCommunicator.destroy`` does the same, but nothing at all once the communicator is disabled, which must come first."""
        with torch.accelerator.device_index(communicator.device.index):
            communicator.nccl.ncclCommAbort(communicator.comm)


TRANSPORT = NcclTransport()
