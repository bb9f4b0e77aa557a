"""The optimiser's state of a learner rank in host memory while engines use its GPU, and back.

Moved: the fp32 master weights, the optimiser's moments, the gradient buffers. Not moved: the parameters that the forward pass reads, which
are still synced, probed and exported. A checkpoint can be saved in either state, but loaded only after ``reload``.

DeepSpeed's ``offload_states`` moves them for ZeRO 2, and for ZeRO 1 in float32. For ZeRO-3 it accepts only its own FusedAdam, so this
module moves the master weights and moments itself, and DeepSpeed the gradient buffers. Source: DeepSpeed 0.19.8, ``stage_1_and_2.py``,
``stage3.py``, ``bf16_optimizer.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class Offload:
    """Moves the state of one engine. Its buffers in host memory are pinned and kept: copies to and from them are several times faster."""

    def __init__(self, engine: Any, optimizer: torch.optim.Optimizer) -> None:
        """
        Args:
            engine: DeepSpeed's engine.
            optimizer: the torch optimiser inside it.
        """
        self._engine = engine
        self._optimizer = optimizer
        self._pinned = engine.device.type != "cpu"
        self._buffers: list[torch.Tensor] = []
        """For ZeRO-3: of each tensor that is moved, in order."""

    def offload(self) -> None:
        """Move the state to host memory; DeepSpeed then returns the freed GPU memory, caches included. Does nothing if it is there
        already."""
        from deepspeed.runtime.zero.offload_config import OffloadStateTypeEnum as State

        if self._engine.zero_optimization_stage() < 3:
            self._engine.offload_states(include=[State.hp_params, State.optim_states, State.lp_grads], pin_memory=self._pinned)
            return
        if self._pinned:
            for index, tensor in enumerate(self._stage_3_states()):
                if tensor.device.type != "cpu":
                    tensor.data = self._buffer(index, tensor).copy_(tensor)
        self._engine.offload_states(include=[State.lp_grads, State.contiguous_grad_buffer], pin_memory=self._pinned)

    def reload(self) -> None:
        """Move the state back to the rank's device. Does nothing if it is there already."""
        self._engine.reload_states()
        if self._engine.zero_optimization_stage() == 3:
            for tensor in self._stage_3_states():
                tensor.data = tensor.data.to(self._engine.device)

    def _buffer(self, index: int, like: torch.Tensor) -> torch.Tensor:
        """Pinned memory for the tensor at ``index``; the optimiser makes its moments anew when it starts anew, in the same order."""
        import torch

        if index < len(self._buffers) and (self._buffers[index].shape, self._buffers[index].dtype) == (like.shape, like.dtype):
            return self._buffers[index]
        del self._buffers[index:]
        self._buffers.append(torch.empty(like.shape, dtype=like.dtype, pin_memory=True))
        return self._buffers[index]

    def _stage_3_states(self) -> Iterator[torch.Tensor]:
        """The rank's shards: the master weights, then the optimiser's tensors for each of them."""
        yield from self._engine.optimizer.fp32_partitioned_groups_flat
        for state in self._optimizer.state.values():
            yield from (tensor for tensor in state.values() if tensor.dim())  # the step count stays where the optimiser expects it
