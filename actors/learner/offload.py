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


def offload(engine: Any, optimizer: torch.optim.Optimizer) -> None:
    """Move the state to host memory; DeepSpeed then returns the freed GPU memory, caches included. Does nothing if it is there already.

    Args:
        engine: DeepSpeed's engine.
        optimizer: the torch optimiser inside it.
    """
    from deepspeed.runtime.zero.offload_config import OffloadStateTypeEnum as State

    pinned = engine.device.type != "cpu"
    if engine.zero_optimization_stage() < 3:
        engine.offload_states(include=[State.hp_params, State.optim_states, State.lp_grads], pin_memory=pinned)
        return
    for tensor in _stage_3_states(engine, optimizer):
        tensor.data = tensor.data.to("cpu")
    engine.offload_states(include=[State.lp_grads, State.contiguous_grad_buffer], pin_memory=pinned)


def reload(engine: Any, optimizer: torch.optim.Optimizer) -> None:
    """Move the state back to the rank's device. Does nothing if it is there already."""
    engine.reload_states()
    if engine.zero_optimization_stage() == 3:
        for tensor in _stage_3_states(engine, optimizer):
            tensor.data = tensor.data.to(engine.device)


def _stage_3_states(engine: Any, optimizer: torch.optim.Optimizer) -> Iterator[torch.Tensor]:
    """The rank's shards: the master weights, then the optimiser's tensors for each of them."""
    yield from engine.optimizer.fp32_partitioned_groups_flat
    for state in optimizer.state.values():
        yield from (tensor for tensor in state.values() if tensor.dim())  # the step count stays on the device that the optimiser expects
