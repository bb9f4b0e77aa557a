"""A frozen model on several devices: its blocks in order, a part on each; what comes before and after them on the first.

Only one device computes at a time. More replicas make a reference faster; more devices let it hold a larger model.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from actors.policy_model import prepared
from actors.weight_files import empty_model, finish, put, stored_weights
from raypref.errors import ConfigError
from raypref.sections import PolicyConfig


def load_spread(policy: PolicyConfig, devices: Sequence[torch.device]) -> Any:
    """As ``actors.policy_model.load_model`` for a frozen model. Host memory holds one of its tensors at a time.

    Raises:
        ConfigError: the policy cannot be loaded, its files lack a weight, or it has fewer blocks than there are devices.
    """
    model = empty_model(policy)
    prefix, blocks = _blocks(model)
    if len(blocks) < len(devices):
        raise ConfigError(f"placement.reference.gpus: {len(devices)}, but the policy has {len(blocks)} blocks; set at most {len(blocks)}")
    expected = model.state_dict(keep_vars=True)
    inside = sum(tensor.nbytes for name, tensor in expected.items() if name.startswith(f"{prefix}."))
    around = sum({id(tensor): tensor.nbytes for name, tensor in expected.items() if not name.startswith(f"{prefix}.")}.values())
    by_block = [devices[k] for k in divided(len(blocks), len(devices), inside / len(blocks), around)]

    def device_of(name: str) -> torch.device:
        inner = name.removeprefix(f"{prefix}.")
        return devices[0] if inner == name else by_block[int(inner.partition(".")[0])]

    missing = set(expected)
    for name, tensor in stored_weights(policy, model):
        value = tensor.to(device_of(name))
        put(model, {name: nn.Parameter(value, requires_grad=False) if isinstance(expected[name], nn.Parameter) else value})
        missing.discard(name)
    finish(model, missing, policy)
    for owner, module in model.named_modules():
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = buffer.to(device_of(f"{owner}.{name}"))
    for block, device in zip(blocks, by_block, strict=True):
        block.register_forward_pre_hook(partial(_inputs_to, device), with_kwargs=True)
    blocks[-1].register_forward_hook(partial(_output_to, devices[0]))
    return prepared(model, policy, devices[0], trainable=False)


def divided(blocks: int, devices: int, block: float, around: float) -> list[int]:
    """The device of each block, so that the devices hold about equally much and none is empty.

    Args:
        blocks: how many there are, at least as many as devices.
        block: bytes of one.
        around: bytes that the first device holds besides.
    """
    middle = [int((around + (k + 0.5) * block) * devices / (around + blocks * block)) for k in range(blocks)]
    return [min(max(device, devices - blocks + k, 0), k, devices - 1) for k, device in enumerate(middle)]


def _blocks(model: Any) -> tuple[str, nn.ModuleList]:
    """The name of the model's list of blocks, and the list."""
    count = model.config.get_text_config().num_hidden_layers
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return name, module
    raise ConfigError(f"placement.reference.gpus: {type(model).__name__} has no list of {count} blocks to put on several GPUs; set it to 1")


def _inputs_to(device: torch.device, module: nn.Module, arguments: Any, named: Any) -> Any:
    """A hook before a block. Kernels that Triton compiles run on the current device, whatever device their arguments are on."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return tree_map(partial(_moved, device), (arguments, named))


def _output_to(device: torch.device, module: nn.Module, arguments: Any, output: Any) -> Any:
    """A hook after the last block."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return tree_map(partial(_moved, device), output)


def _moved(device: torch.device, value: Any) -> Any:
    return value.to(device) if isinstance(value, Tensor) else value
