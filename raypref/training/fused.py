"""Liger's fused kernels for norms, rotary positions and gated activations, used on a GPU if the extra ``liger`` is installed.

Source: https://github.com/linkedin/Liger-Kernel, 0.8.5. Its fused head is not used: ``raypref.training.head`` is faster.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def available(device: torch.device) -> bool:
    """Whether the kernels are installed and the device can run them."""
    return device.type == "cuda" and find_spec("liger_kernel") is not None


def fuse_layers(model: Any) -> None:
    """Fuse norms, rotary positions and gated activations into one kernel each, for models that Liger supports; the head is not changed.

    Only ``model`` changes, so that the process may run other models of the class on a CPU. A class of custom code is left as it is: Liger
    goes by ``model_type``, which such a class may use for other layers.

    Args:
        model: an unwrapped transformers model on a GPU.
    """
    from transformers.integrations.liger import apply_liger_kernel

    module = sys.modules[type(model).__module__]
    if module.__name__.startswith("transformers.models."):
        with _only_on_gpus(module):
            apply_liger_kernel(model, {"cross_entropy": False, "fused_linear_cross_entropy": False})


@contextmanager
def _only_on_gpus(module: ModuleType) -> Iterator[None]:
    """Limit what the block replaces in ``module``, which all of the process's models share.

    Liger changes the layers of the given model, and besides replaces the module's classes and functions for all models. The classes are
    put back. A layer has no rotary function of its own to change, so the replacement of a function stays, for tensors on a GPU.
    """
    before = dict(vars(module))
    try:
        yield
    finally:
        for name, original in before.items():
            replacement = vars(module)[name]
            if replacement is not original:
                restored = isinstance(original, type | _ByDevice)
                setattr(module, name, original if restored else _ByDevice(original, replacement))


class _ByDevice:
    """A function of tensors that calls one of two functions, by the device of its first argument."""

    def __init__(self, otherwise: Callable[..., Any], on_gpu: Callable[..., Any]) -> None:
        functools.update_wrapper(self, otherwise)
        self._otherwise, self._on_gpu = otherwise, on_gpu

    def __call__(self, first: torch.Tensor, *arguments: Any, **named: Any) -> Any:
        function = self._on_gpu if first.device.type == "cuda" else self._otherwise
        return function(first, *arguments, **named)
