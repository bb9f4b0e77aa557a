"""pi_t in a reference replica: a transformers model that weight sync loads into.

Weights for the regulariser alone pass by: they are received, for a transfer may need every receiver, and discarded.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from actors.policy_model import stored_buffers
from raypref.errors import SyncError
from raypref.types import Example


class ReceivedPolicy:
    """pi_t: a transformers model that a transport loads into."""

    def __init__(self, model: nn.Module, device: torch.device, transport: str) -> None:
        from vllm.config import WeightTransferConfig
        from vllm.distributed.weight_transfer import WeightTransferEngineFactory

        from actors.weights.receiving import ReceivedWeights

        self.model = model
        self.version: int | None = None
        """Which policy is held; None before the first sync and during one."""
        self._target = _Target(model)
        self.weights = ReceivedWeights(self._target)
        alone = SimpleNamespace(parallel_config=SimpleNamespace(data_parallel_index=0, world_size=1, rank=0), model_config=None)
        self.engine = WeightTransferEngineFactory.create_engine(WeightTransferConfig(backend=transport), alone, device, self._target)

    def begin(self, *, keep: bool, complete: bool) -> None:
        if keep:
            self.version = None
        self._target.keeps = keep
        if complete:
            self._target.arrived.clear()
        self.weights.begin(complete=complete)
        self.engine.start_weight_update()

    def finish(self) -> None:
        self.engine.finish_weight_update()
        self._target.check_complete()

    def take_version(self, version: int) -> None:
        """Name the weights that have arrived, unless they were discarded."""
        if self._target.keeps:
            self.version = version

    def check(self, example: Example) -> None:
        """Refuse an example that another policy sampled; given data belongs to whatever pi_t is."""
        if self.version is None or example.policy_version not in (None, self.version):
            raise SyncError(
                f"prompt {example.prompt_id!r} was sampled by policy version {example.policy_version}; the reference holds "
                f"{'no pi_t yet' if self.version is None else f'version {self.version}'}"
            )


class _Target(nn.Module):
    """Stands where vLLM expects an engine's model; has no parameters of its own, so that the layerwise reload finds nothing to do."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._own: dict[str, Tensor] = dict(model.named_parameters()) | stored_buffers(model)  # no submodule: vLLM must not see them
        self.arrived: set[str] = set()
        self.keeps = True
        """Whether what arrives replaces the model's own weights, or is discarded."""

    @torch.no_grad()
    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        for name, tensor in weights:
            if name not in self._own or self._own[name].shape != tensor.shape:
                raise SyncError(f"sync: {name} {tuple(tensor.shape)} is no parameter of the reference model")
            if self.keeps:
                self._own[name].copy_(tensor)
            self.arrived.add(name)

    def check_complete(self) -> None:
        if missing := sorted(self._own.keys() - self.arrived):
            raise SyncError(f"sync: {len(missing)} of {len(self._own)} parameters did not arrive, {missing[0]} the first")
