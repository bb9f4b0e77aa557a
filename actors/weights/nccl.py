"""NCCL broadcast: for a learner and receivers on GPUs of their own, on any nodes. Both halves are vLLM's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from actors.weights.transport import Link, LoadsWeights, Receiver, Sender, Transport, buffer_bytes

if TYPE_CHECKING:
    import torch


class NcclTransport(Transport):
    name = "nccl"
    own_network = True

    def fits(self, device: str, layout: str) -> bool:
        return device == "cuda" and layout == "separate"

    def sender(self, link: Link) -> Sender:
        return _NcclSender(link)

    def receiver(self, model: LoadsWeights, device: torch.device) -> Receiver:
        from actors.weights.vllm_adapters import VllmReceiver

        return VllmReceiver(self.name, model, device)

    def register(self) -> None:
        """vLLM has it."""


class _NcclSender(Sender):
    """vLLM's sender. The learner's first rank is rank 0 of the transfer group; its other ranks are not in the group."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._trainer: Any = None

    def connect(self) -> None:
        import ray
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo, NCCLTrainerWeightTransferEngine
        from vllm.utils.network_utils import get_open_port

        info = NCCLTrainerInitInfo(
            rank=0,
            master_address=ray.util.get_node_ip_address(),
            master_port=get_open_port(),
            world_size=1 + self._link.workers,
            packed_buffer_size_bytes=buffer_bytes(self._link.source),
        )
        self._trainer = NCCLTrainerWeightTransferEngine.trainer_init(info, client=self._link.control, source=self._link.source)

    def send(self) -> None:
        if self._trainer is not None:
            self._trainer.send_weights()
            return
        for _ in self._link.source:
            pass

    def close(self) -> None:
        if self._trainer is not None:
            self._trainer.shutdown()


TRANSPORT = NcclTransport()
