"""Liger's fused kernels, used on a GPU if the extra ``liger`` is installed.

Source: https://github.com/linkedin/Liger-Kernel, 0.8.5. Before 0.8.5 the head's kernel may give wrong gradients for ``reduction="none"``
(its pull request 1298), hence the lower bound of the extra.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def available(device: torch.device) -> bool:
    """Whether the kernels are installed and the device can run them."""
    return device.type == "cuda" and find_spec("liger_kernel") is not None


def fuse_layers(model: Any) -> None:
    """Fuse norms, rotary positions and gated activations into one kernel each, for models that Liger supports; the head is not changed.

    Args:
        model: an unwrapped transformers model.
    """
    from transformers.integrations.liger import apply_liger_kernel

    apply_liger_kernel(model, {"cross_entropy": False, "fused_linear_cross_entropy": False})


def fused_head_logps(hidden: Tensor, weight: Tensor, bias: Tensor | None, tokens: Tensor) -> Tensor:
    """``head_logps`` by Liger's fused linear cross-entropy, for at least one token; the weight's gradient is summed in float32."""
    import torch
    from liger_kernel.ops.fused_linear_cross_entropy import LigerFusedLinearCrossEntropyFunction

    none_ignored, no_smoothing, no_cap, no_z_loss = -100, 0.0, None, False
    losses = LigerFusedLinearCrossEntropyFunction.apply(
        hidden, weight, tokens, bias, None, none_ignored, 0.0, no_smoothing, "none", no_cap, no_z_loss, torch.float32
    )[0]
    return -losses
