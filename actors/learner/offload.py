"""The optimiser's state of a learner rank in host memory while engines use its GPU, and back.

What goes: the fp32 master weights, the optimiser's moments, the gradient buffers. What stays: the parameters that the forward pass
reads, which are synced, probed and exported in between. A checkpoint may be saved from either place, and loaded at home only.

DeepSpeed's ``offload_states`` does it for ZeRO 2, and for ZeRO 1 in float32. Its ZeRO-3 refuses optimisers other than its own FusedAdam:
there the master weights and moments are moved here, the gradient buffers by DeepSpeed. Read in DeepSpeed 0.19.8: ``stage_1_and_2.py``,
``stage3.py``, ``bf16_optimizer.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def offload(engine: Any, optimizer: torch.optim.Optimizer) -> None:
    """Move to host memory what is at home; DeepSpeed then returns the freed GPU memory, its caches too.

    Args:
        engine: DeepSpeed's.
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
    """Move everything back to the rank's device; nothing happens to what is there."""
    engine.reload_states()
    if engine.zero_optimization_stage() == 3:
        for tensor in _stage_3_states(engine, optimizer):
            tensor.data = tensor.data.to(engine.device)


def _stage_3_states(engine: Any, optimizer: torch.optim.Optimizer) -> Iterator[torch.Tensor]:
    """The rank's shards: master weights, then what the optimiser keeps for each."""
    yield from engine.optimizer.fp32_partitioned_groups_flat
    for state in optimizer.state.values():
        yield from (tensor for tensor in state.values() if tensor.dim())  # a count of steps stays where its optimiser wants it
