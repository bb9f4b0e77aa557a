"""Log-probs of tokens from the input of a model's head, without the [tokens, vocabulary] matrix of logits.

Shapes: M tokens, H hidden size, V vocabulary. Import it lazily where torch must not be loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

CHUNK_ELEMENTS = {"cpu": 1 << 25, "cuda": 1 << 28}
"""Device type -> number of logits of a chunk: 128 MiB and 1 GiB in float32. A GPU needs larger chunks, since every chunk reads and writes
the whole gradient of the weight. Measured on an H200 (8192 tokens, V 128,256, H 4096, bfloat16, both passes): 2^25 113 ms, 2^26 85, 2^27
74, 2^28 69; Liger's fused head takes 94."""


def head_logps(hidden: Tensor, weight: Tensor, bias: Tensor | None, tokens: Tensor) -> Tensor:
    """log softmax(hidden weight^T + bias)[token], in float32 from logits in the dtype of ``weight``.

    Forward and backward pass go over chunks of tokens. The probabilities of the first chunk are kept for the backward pass, which computes
    those of the others again, so that no more than two chunks exist at a time, and their logits in half precision. The gradient of a
    weight in half precision is summed over the chunks in float32.

    Args:
        hidden: (M, H).
        weight: (V, H).
        bias: (V,) or None.
        tokens: (M,) int64.

    Returns:
        (M,) float32, in nats.
    """
    return _HeadLogps.apply(hidden, weight, bias, tokens)


def chunk_rows(vocabulary: int, device: torch.device) -> int:
    """Rows of logits in a chunk on ``device``."""
    return max(1, CHUNK_ELEMENTS[device.type] // vocabulary)


class _HeadLogps(torch.autograd.Function):
    """d log softmax(z)[t] / dz = onehot(t) - softmax(z), then through z = h W^T + b."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, tokens: Tensor) -> Tensor:
        rows = chunk_rows(len(weight), hidden.device)
        needs_gradient = any(ctx.needs_input_grad)
        normalisers = torch.empty(len(hidden), device=hidden.device)
        result = torch.empty(len(hidden), device=hidden.device)
        ctx.kept = None
        for start in range(0, len(hidden), rows):
            part = slice(start, start + rows)
            logits = linear(hidden[part], weight, bias).float()
            highest = logits.amax(-1, keepdim=True)
            picked = logits.gather(-1, tokens[part, None])
            unnormalised = logits.sub_(highest).exp_()
            total = unnormalised.sum(-1, keepdim=True)
            normaliser = highest + total.log()
            normalisers[part] = normaliser.squeeze(-1)
            result[part] = (picked - normaliser).squeeze(-1)
            if needs_gradient and start == 0:
                ctx.kept = unnormalised.div_(total)
            del logits, unnormalised
        ctx.save_for_backward(hidden, weight, bias, tokens, normalisers)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        hidden, weight, bias, tokens, normalisers = ctx.saved_tensors
        gradients = HeadGradients(hidden, weight, bias, ctx.needs_input_grad)
        rows = chunk_rows(len(weight), hidden.device)
        for start in range(0, len(hidden), rows):
            part = slice(start, start + rows)
            probabilities, ctx.kept = ctx.kept, None  # only the first chunk was kept
            if probabilities is None:
                probabilities = linear(hidden[part], weight, bias).float().sub_(normalisers[part, None]).exp_()
            d_logits = probabilities.mul_(-gradient[part, None])
            d_logits.scatter_add_(-1, tokens[part, None], gradient[part, None])
            gradients.add(part, d_logits)
            del probabilities, d_logits
        return *gradients.result(), None


class HeadGradients:
    """Sums the gradients of the head's input, weight and bias over chunks of the gradient of the logits."""

    def __init__(self, hidden: Tensor, weight: Tensor, bias: Tensor | None, needed: Sequence[bool]) -> None:
        """
        Args:
            hidden: (M, H).
            weight: (V, H).
            bias: (V,) or None.
            needed: whether each of the three needs a gradient; further entries are ignored.
        """
        self._inputs = hidden, weight, bias
        to_hidden, to_weight, to_bias, *_ = needed
        self._hidden = torch.empty_like(hidden) if to_hidden else None
        self._weight = torch.zeros_like(weight, dtype=torch.float32) if to_weight else None
        self._bias = torch.zeros_like(bias, dtype=torch.float32) if bias is not None and to_bias else None

    def add(self, part: slice, d_logits: Tensor) -> None:
        """Add the gradient of the logits of the rows ``part``, (m, V) float32."""
        hidden, weight, _ = self._inputs
        if self._bias is not None:
            self._bias += d_logits.sum(0)
        d_logits = d_logits.to(weight.dtype)
        if self._hidden is not None:
            torch.mm(d_logits, weight, out=self._hidden[part])
        if self._weight is not None:
            _add_product(self._weight, d_logits, hidden[part])

    def result(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The gradients of hidden, weight and bias, in their dtypes; None where none is needed."""
        _, weight, bias = self._inputs
        return self._hidden, _cast(self._weight, weight), _cast(self._bias, bias)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left^T right. A GPU adds products of half precision in float32; a CPU would round each of them first."""
    if total.dtype == left.dtype:
        total.addmm_(left.T, right)
    elif total.device.type == "cuda":
        torch.addmm(total, left.T, right, out_dtype=total.dtype, out=total)
    else:
        total += left.T @ right


def _cast(gradient: Tensor | None, parameter: Tensor | None) -> Tensor | None:
    return None if gradient is None or parameter is None else gradient.to(parameter.dtype)
