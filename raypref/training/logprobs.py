"""Log-probs of response tokens under a model, by the one code path that learner and reference share.

Shapes: N sequences, R tokens of the longest response, M response tokens of all sequences, V vocabulary. Two code
paths would differ by 1e-5 relative, which affects losses that subtract their results. Import it lazily where torch must not be loaded.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from raypref import types
from raypref.training import micro_batches
from raypref.training.head import chunk_rows, head_logps
from raypref.training.packing import Inputs, model_inputs, packing_of, prefix_sharing_mask, supports_packing
from raypref.training.token_kl import head_kl, token_kl


def response_logps(model: nn.Module, sequences: Sequence[types.TokenSequence]) -> tuple[Tensor, Tensor]:
    """log p(response token | prompt, earlier response tokens), at temperature 1.

    One forward pass. The other sequences in it change a sequence's log-probs by rounding alone. Only the positions that predict response
    tokens reach the head. If ``packing`` supports the model and its head is a plain linear layer, their logits never exist all at once.
    Only ``model(...)`` is called, so this works under ZeRO-3, under peft and under ``torch.no_grad``.

    Args:
        model: a causal language model of transformers, which peft or DeepSpeed may wrap.
        sequences: (N,) a prompt of at least one token each, and a response that may be empty.

    Returns:
        (N, R) float32 log-probs in nats, 0 where there is no token, and the (N, R) bool mask of the tokens. Row n's tokens are its
        last ones, in order: ``logps[n][mask[n]]`` has the length of the response.

    Raises:
        ValueError: there is no sequence, or one has an empty prompt.
    """
    inputs = model_inputs(sequences, packing_of(model))
    tokens = inputs.tokens.to(next(model.parameters()).device)
    if (head := _plain_head(model)) is not None:
        logps = _forward(model, head, inputs, lambda hidden: head_logps(hidden, head.weight, head.bias, tokens))
    else:
        logps = token_logps(_logits(model, inputs), tokens)
    return pad_rows(logps, inputs.lengths)


@dataclass(frozen=True, slots=True)
class Predictions:
    """The predictions of a frozen model at the response tokens, from which its logits follow."""

    values: Tensor
    """(M, H) input of the head, in the order of the sequences; (M, V) logits if ``head`` is None."""
    head: nn.Linear | None
    """None if the logits are not the output of a plain linear layer."""

    @property
    def logits(self) -> Tensor:
        """(M, V)."""
        return self.values if self.head is None else self.head(self.values)


def response_predictions(model: nn.Module, sequences: Sequence[types.TokenSequence]) -> Predictions:
    """The frozen model's side of ``response_kl``. Arguments and errors as in ``response_logps``."""
    inputs = model_inputs(sequences, packing_of(model))
    head = _plain_head(model)
    return Predictions(_logits(model, inputs) if head is None else _forward(model, head, inputs, lambda hidden: hidden), head)


def response_kl(model: nn.Module, reference: Predictions, sequences: Sequence[types.TokenSequence]) -> tuple[Tensor, Tensor]:
    """KL(model || reference) of the next token over the whole vocabulary, at every response token, and the token's log-prob.

    One forward pass as in ``response_logps``; the divergence is computed by ``raypref.training.token_kl``.

    Args:
        model: see ``response_logps``.
        reference: predictions for the same sequences, in the same order.
        sequences: (N,)

    Returns:
        (N, R) float32 each, in nats, 0 where there is no token; both have a gradient.
    """
    inputs = model_inputs(sequences, packing_of(model))
    tokens = inputs.tokens.to(next(model.parameters()).device)
    head, other = _plain_head(model), reference.head
    if head is not None and other is not None:
        both = _forward(model, head, inputs, lambda hidden: head_kl(hidden, head, tokens, reference.values, other))
    else:
        logits = _logits(model, inputs)
        both = torch.stack([token_kl(logits, reference.logits), token_logps(logits, tokens)])
    divergence, logps = both.unbind()
    return pad_rows(divergence, inputs.lengths)[0], pad_rows(logps, inputs.lengths)[0]


def pad_rows(values: Tensor, lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
    """(M,) values per response token as left-padded (N, R) rows, 0 where there is no token, and the mask of the tokens; R is at least 1."""
    width = max(1, *lengths)
    mask = (torch.arange(width) >= width - torch.tensor(lengths)[:, None]).to(values.device)
    return torch.zeros(mask.shape, dtype=values.dtype, device=values.device).masked_scatter(mask, values), mask


def token_logps(logits: Tensor, tokens: Tensor) -> Tensor:
    """log softmax(logits)[token], in float32 whatever the dtype of the logits.

    The softmax is computed in chunks of tokens, and again in the backward pass, so that no pass holds a float32 copy of all logits.

    Args:
        logits: (M, V).
        tokens: (M,) int64.

    Returns:
        (M,) float32, in nats.
    """
    return _TokenLogps.apply(logits, tokens)


class _TokenLogps(torch.autograd.Function):
    """d log softmax(z)[t] / dz = onehot(t) - softmax(z), from the saved log-sum-exp."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, tokens: Tensor) -> Tensor:
        """logits (M, V), tokens (M,) -> (M,) float32."""
        normaliser = torch.cat([chunk.float().logsumexp(-1) for chunk in logits.split(chunk_rows(logits.shape[-1], logits.device))])
        ctx.save_for_backward(logits, tokens, normaliser)
        return logits.gather(-1, tokens[:, None]).squeeze(-1).float() - normaliser

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """gradient (M,) -> (M, V) in the dtype of the logits."""
        logits, tokens, normaliser = ctx.saved_tensors
        result = torch.empty_like(logits)
        rows = chunk_rows(logits.shape[-1], logits.device)
        for start in range(0, len(logits), rows):
            part = slice(start, start + rows)
            probabilities = (logits[part].float() - normaliser[part, None]).exp_()
            d_logits = probabilities.mul_(-gradient[part, None])
            d_logits.scatter_add_(-1, tokens[part, None], gradient[part, None])
            result[part] = d_logits
        return result, None


def _plain_head(model: nn.Module) -> nn.Linear | None:
    """The model's head, if it is a plain linear layer whose output is the logits."""
    head: Any = model.get_output_embeddings()  # type: ignore[operator]  # not a submodule
    return head if type(head) is nn.Linear and supports_packing(model) else None


def _logits(model: nn.Module, inputs: Inputs) -> Tensor:
    """(M, V) logits that predict the response tokens."""
    return _forward(model, None, inputs, None)


def _forward(model: nn.Module, head: nn.Module | None, inputs: Inputs, head_forward: Callable[[Tensor], Tensor] | None) -> Tensor:
    """At ``inputs.logit_indices``: (M, V) logits, or ``head_forward`` of the (M, H) input of the head."""
    device = next(model.parameters()).device
    width = inputs.input_ids.shape[1]
    first = int((inputs.logit_indices % width).min()) if len(inputs.logit_indices) else width - 1
    indices = (inputs.logit_indices // width * (width - first) + inputs.logit_indices % width - first).to(device)

    def selected(values: Tensor) -> Tensor:
        return values.flatten(0, 1).index_select(0, indices)

    arguments: dict[str, Any] = {"input_ids": inputs.input_ids.to(device), "use_cache": False, "logits_to_keep": width - first}
    if inputs.position_ids is not None:
        arguments["position_ids"] = inputs.position_ids.to(device)
    if inputs.segment_ids is not None:
        arguments["attention_mask"] = _additive_mask(inputs.segment_ids.to(device), next(model.parameters()).dtype)
    if inputs.cu_seqlens is not None:
        arguments |= _varlen_arguments(inputs.cu_seqlens, device)
    if head is None or head_forward is None:
        return selected(model(**arguments).logits)
    with _replaced(head, lambda hidden: head_forward(selected(hidden))):
        output: Tensor = model(**arguments).logits
    return output


def _varlen_arguments(cu_seqlens: Sequence[int], device: torch.device) -> dict[str, Any]:
    """Precomputed cu_seqlens; otherwise flash attention derives them from the positions in every layer, with a device sync."""
    on_device = torch.tensor(cu_seqlens, dtype=torch.int32, device=device)
    longest = max(end - start for start, end in itertools.pairwise(cu_seqlens))
    return {"cu_seq_lens_q": on_device, "cu_seq_lens_k": on_device, "max_length_q": longest, "max_length_k": longest}


def _additive_mask(segment_ids: Tensor, dtype: torch.dtype) -> Tensor:
    """(W, 1, L, L) the mask as a term of the attention scores; from a boolean mask, attention would compute it in every layer.

    The stride of its rows is a multiple of 8: CUDA's memory-efficient attention would copy any other mask in every layer
    (``preprocess_mask`` in torch's attention.cpp).
    """
    width = segment_ids.shape[-1]
    aligned = torch.zeros(len(segment_ids), 1, width, -(-width // 8) * 8, dtype=dtype, device=segment_ids.device)
    return aligned[..., :width].masked_fill_(~prefix_sharing_mask(segment_ids), torch.finfo(dtype).min)


@contextlib.contextmanager
def _replaced(head: nn.Module, forward: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Within the block the head computes ``forward``. Its hooks stay, since ZeRO-3 gathers its weight with them in both passes."""
    head.forward = forward
    try:
        yield
    finally:
        del head.forward


@torch.no_grad()
def per_token_logps(model: Any, sequences: Sequence[types.TokenSequence], micro_batch_tokens: int) -> list[NDArray[np.float64]]:
    """Log-probs in nats of each sequence's response tokens: (T_s,) each, in the order of the sequences.

    Args:
        model: as in ``response_logps``.
        sequences: any number.
        micro_batch_tokens: tokens of one forward pass, padding included.
    """
    items = [[sequence] for sequence in sequences]
    by_sequence: dict[int, NDArray[np.float64]] = {}
    for micro in micro_batches.plan_micro_batches(items, 1, micro_batch_tokens, packing_of(model))[0] if items else ():
        logps, mask = response_logps(model, [sequences[k] for k in micro.examples])
        rows, present = logps.double().cpu().numpy(), mask.cpu().numpy()
        for k, row, tokens in zip(micro.examples, rows, present, strict=True):
            by_sequence[k] = row[tokens]
    return [by_sequence[k] for k in range(len(sequences))]
