"""Between our receivers and vLLM's: ours in its engines, its own around models that are not vLLM's.

Importing this module imports vLLM (7 s of CPU time): only engines do, and the references that receive by nccl or ipc.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from vllm.config import WeightTransferConfig
from vllm.distributed.weight_transfer.base import WeightTransferEngine
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

from actors.weights.transport import LoadsWeights, Receiver, Transport


def register(transport: Transport) -> str:
    """Make a transport known to vLLM in this process, and return the name there, which is not that of one of vLLM's own transports. A
    second call changes nothing."""
    name = f"raypref_{transport.name}"
    if name not in WeightTransferEngineFactory._registry:  # there is no public way to ask
        engine = type("TransportEngine", (_TransportEngine,), {"transport": transport})
        WeightTransferEngineFactory.register_engine(name, engine)
    return name


def abandon_update(model: nn.Module, model_config: Any) -> None:
    """Drop what is left of an update that was broken off; the model may be loaded anew then.

    vLLM keeps the tensors of a layer until it has all of them, and a layer that waits for the rest is not prepared again by the next
    update: its old tensors would be counted as new ones.
    """
    from vllm.model_executor.model_loader.reload import finalize_layerwise_reload
    from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info

    waiting = [info for layer in model.modules() if (info := get_layerwise_info(layer)).can_load()]
    for info in waiting:
        info.loaded_weights, info.load_numel = [], 0
    if waiting:
        finalize_layerwise_reload(model, model_config)  # puts back the tensors of layers that have received nothing


class _TransportEngine(WeightTransferEngine[dict[str, Any], dict[str, Any]]):
    """Our receiver where vLLM expects one of its own: with vLLM's layer-by-layer reload around every sync."""

    transport: ClassVar[Transport]

    def __init__(self, config: Any, vllm_config: Any, device: torch.device, model: Any) -> None:
        super().__init__(config, vllm_config, device, model)
        self._receiver = self.transport.receiver(model, device)
        _pack_experts_at_every_load(model)

    def parse_init_info(self, init_dict: dict[str, Any]) -> dict[str, Any]:
        return init_dict

    def init_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Connect. Each worker of an engine with several has a rank and a name of its own."""
        rank, several = self.parallel_config.rank, self.parallel_config.world_size > 1
        own = {"rank": lambda first: first + rank, "receiver": lambda name: f"{name}/tp{rank}" if several else name}
        self._receiver.connect({key: own[key](value) if key in own else value for key, value in init_info.items()})

    def start_weight_update(self) -> None:
        from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

        initialize_layerwise_reload(self.model)
        self._receiver.begin()

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """As the base class does it, but without waiting for an accelerator, which there may not be."""
        self.receive_weights(update_info)

    def receive_weights(self, update_info: dict[str, Any]) -> None:
        self._receiver.update(update_info)

    def finish_weight_update(self) -> None:
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

        self._receiver.finish()
        finalize_layerwise_reload(self.model, self.model_config)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # the next forward pass may run on another stream
        _repack_tied_heads(self.model)

    def shutdown(self) -> None:
        self._receiver.close()


def _pack_experts_at_every_load(model: nn.Module) -> None:
    """Make a reload pack the experts' weights for the CPU's kernels, as the first load does.

    Without this a reload leaves them unpacked where the kernels read packed ones, since ``UnquantizedFusedMoEMethod._setup_kernel`` lets
    the kernel prepare the weights when it is built and not again.
    """
    from vllm.model_executor.layers.fused_moe.oracle.unquantized import UnquantizedMoeBackend
    from vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method import UnquantizedFusedMoEMethod

    for layer in model.modules():
        method = getattr(layer, "quant_method", None)
        if isinstance(method, UnquantizedFusedMoEMethod) and method.unquantized_backend == UnquantizedMoeBackend.CPU:
            method.process_weights_after_loading = partial(_load_and_pack, method, method.process_weights_after_loading)


def _load_and_pack(method: Any, process: Callable[[nn.Module], None], layer: nn.Module) -> None:
    packed_before = method.moe_kernel is not None
    process(layer)
    if packed_before:
        method.moe_kernel.fused_experts.process_weights_after_loading(layer)


def _repack_tied_heads(model: nn.Module) -> None:
    """Pack a tied output head's weights again: it receives none itself, so the reload leaves its packed copy as it was."""
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

    for module in model.modules():
        if isinstance(module, ParallelLMHead) and hasattr(module, "cpu_linear"):
            module.quant_method.process_weights_after_loading(module)


class VllmReceiver(Receiver):
    """vLLM's receiving half of one of its transports, around a model that is not vLLM's."""

    def __init__(self, backend: str, model: LoadsWeights, device: torch.device) -> None:
        """
        Args:
            backend: vLLM's name of the transport.
            model: gets the weights.
            device: of the model.
        """
        alone = SimpleNamespace(parallel_config=SimpleNamespace(data_parallel_index=0, world_size=1, rank=0), model_config=None)
        self._engine = WeightTransferEngineFactory.create_engine(WeightTransferConfig(backend=backend), alone, device, _Wrapper(model))

    def connect(self, info: Mapping[str, Any]) -> None:
        self._engine.init_transfer_engine(self._engine.parse_init_info(dict(info)))

    def begin(self) -> None:
        self._engine.start_weight_update()

    def update(self, info: Mapping[str, Any]) -> None:
        self._engine.update_weights(dict(info))

    def finish(self) -> None:
        self._engine.finish_weight_update()

    def close(self) -> None:
        self._engine.shutdown()


class _Wrapper(nn.Module):
    """Passes weights on. It has no parameters, so that vLLM's layer-by-layer reload finds nothing to do."""

    def __init__(self, model: LoadsWeights) -> None:
        super().__init__()
        self._load = model.load_weights

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        self._load(weights)
