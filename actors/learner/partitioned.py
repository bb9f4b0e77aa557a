"""Models that ZeRO-3 partitions while they are read, so that none has to fit the memory of one rank or of its host.

Rank 0 reads the checkpoint, a few tensors at a time, and all ranks partition these before the next ones come. A rank never holds more than
its share of the model and one bucket of whole tensors.

Used as a context, ``deepspeed.zero.Init`` would first partition values that are replaced later, and would change the dtype of buffers that
a model's constructor makes. So it is given parameters that hold their values already (its argument ``module``).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from actors.policy_model import prepared
from actors.weight_files import empty_model, finish, put, stored_weights
from raypref.plan.learner_memory import GATHER_ELEMENTS
from raypref.sections import PolicyConfig

if TYPE_CHECKING:
    import torch

    Tensors = Mapping[str, torch.Tensor]


def load_partitioned(policy: PolicyConfig, device: torch.device, *, trainable: bool = False) -> Any:
    """As ``actors.policy_model.load_model``, with parameters that ZeRO-3 has partitioned. All ranks must call it at the same time.

    An adapter's parameters are whole until DeepSpeed's engine is built.

    Args:
        policy: which model, and how.
        device: of the rank.
        trainable: as in ``load_model``.

    Raises:
        ConfigError: the policy cannot be loaded, or its files lack a weight of the model.
    """
    import torch
    import torch.distributed as dist

    model = empty_model(policy)
    config = {"train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": 3}, "bf16": {"enabled": policy.dtype == "bfloat16"}}
    weights = stored_weights(policy, model)
    reader = _buckets(weights, GATHER_ELEMENTS[device.type]) if dist.get_rank() == 0 else None
    expected = model.state_dict(keep_vars=True)
    missing = set(expected)
    while names := _broadcast_names(bucket := next(reader, {}) if reader is not None else None):
        parameters = {}
        for name in names:
            like = expected[name]
            whole = torch.empty(like.shape, dtype=like.dtype, device=device) if bucket is None else bucket[name].to(device)
            if isinstance(like, torch.nn.Parameter):
                parameters[name] = torch.nn.Parameter(whole, requires_grad=like.requires_grad)
            else:
                dist.broadcast(whole.reshape(-1).view(torch.uint8), 0)
                put(model, {name: whole})
        _partition(parameters.values(), config)
        put(model, parameters)
        missing.difference_update(names)
    with _gathered_ties(model, missing):
        finish(model, missing, policy)
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = buffer.to(device)
    return prepared(model, policy, device, trainable=trainable)


def _buckets(weights: Iterable[tuple[str, torch.Tensor]], elements: int) -> Iterator[Tensors]:
    bucket: dict[str, torch.Tensor] = {}
    for name, tensor in weights:
        if bucket and sum(held.numel() for held in bucket.values()) + tensor.numel() > elements:
            yield bucket
            bucket = {}
        bucket[name] = tensor
    if bucket:
        yield bucket


def _broadcast_names(bucket: Tensors | None) -> list[str]:
    """The names in rank 0's bucket, on every rank."""
    import torch.distributed as dist

    message = [None if bucket is None else list(bucket)]
    dist.broadcast_object_list(message, src=0)
    return message[0] or []


def _partition(parameters: Iterable[torch.nn.Parameter], config: dict[str, Any]) -> None:
    """Leave each rank its share of rank 0's values."""
    import deepspeed
    import torch

    deepspeed.zero.Init(module=torch.nn.ParameterList(parameters), config_dict_or_path=config)


def _gathered_ties(model: Any, missing: set[str]) -> contextlib.AbstractContextManager[None]:
    """In the block the stored weights that may be tied are whole: transformers compares two of which the files hold both."""
    import deepspeed

    pairs = {name for pair in model.all_tied_weights_keys.items() for name in pair}
    weights = {id(weight): weight for name in sorted(pairs - missing) if hasattr(weight := model.get_parameter(name), "ds_id")}
    return deepspeed.zero.GatheredParameters(list(weights.values()), modifier_rank=None)
