"""Log-probs of response tokens under a model: the one code path of learner and reference.

Shapes: N sequences, R tokens of the longest response, M response tokens of all sequences, V vocabulary. Two code paths differ by 1e-5
relative, which a loss that subtracts two of them sees; hence one. Import it lazily where torch must not be loaded.
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
from raypref.training.head import head_logps, rows_at_once
from raypref.training.packing import Inputs, inputs_of, knows, packing_of, sees
from raypref.training.token_kl import head_kl, token_kl


def response_logps(model: nn.Module, sequences: Sequence[types.TokenSequence]) -> tuple[Tensor, Tensor]:
    """log p(response token | prompt, earlier response tokens), at temperature 1.

    One forward pass. What else is in it changes a sequence's log-probs by rounding alone. Only the positions before response tokens
    reach the head, and (where ``packing`` knows the model, and its head is a plain linear one) their logits never exist all at once.
    Only ``model(...)`` is called: right under ZeRO-3, under peft, and under ``torch.no_grad``.

    Args:
        model: a causal language model of transformers, bare, wrapped by peft or by DeepSpeed.
        sequences: N prompts with a response each; a prompt has at least one token, a response may have none.

    Returns:
        (N, R) float32 log-probs in nats, 0 where there is no token, and the (N, R) bool mask of the tokens. Row n's tokens are its
        last ones, in order: ``logps[n][mask[n]]`` has the length of the response.

    Raises:
        ValueError: there is no sequence, or one has an empty prompt.
    """
    inputs = inputs_of(sequences, packing_of(model))
    tokens = inputs.tokens.to(next(model.parameters()).device)
    if (head := _plain_head(model)) is not None:
        found = _forward(model, head, inputs, lambda hidden: head_logps(hidden, head.weight, head.bias, tokens))
    else:
        found = token_logps(_logits(model, inputs), tokens)
    return spread(found, inputs.lengths)


@dataclass(frozen=True, slots=True)
class Predictions:
    """What a frozen model predicts the response tokens from."""

    values: Tensor
    """(M, H) what enters the head, one sequence's tokens after the other's; (M, V) logits without one."""
    head: nn.Linear | None
    """None where a model's logits are more than its head makes of them."""

    @property
    def logits(self) -> Tensor:
        """(M, V)."""
        return self.values if self.head is None else self.head(self.values)


def response_predictions(model: nn.Module, sequences: Sequence[types.TokenSequence]) -> Predictions:
    """What ``response_kl`` is to compare with. See ``response_logps`` for the arguments and the errors."""
    inputs = inputs_of(sequences, packing_of(model))
    head = _plain_head(model)
    return Predictions(_logits(model, inputs) if head is None else _forward(model, head, inputs, lambda hidden: hidden), head)


def response_kl(model: nn.Module, reference: Predictions, sequences: Sequence[types.TokenSequence]) -> tuple[Tensor, Tensor]:
    """KL(model || reference) of the next token over the whole vocabulary, at every response token, and the token's log-prob.

    As ``response_logps``; the divergence is ``raypref.training.token_kl``'s.

    Args:
        model: see ``response_logps``.
        reference: of the same sequences, in the same order.
        sequences: N prompts with a response each.

    Returns:
        (N, R) float32 each, in nats, 0 where there is no token; both have a gradient.
    """
    inputs = inputs_of(sequences, packing_of(model))
    tokens = inputs.tokens.to(next(model.parameters()).device)
    head, other = _plain_head(model), reference.head
    if head is not None and other is not None:
        both = _forward(model, head, inputs, lambda hidden: head_kl(hidden, head, tokens, reference.values, other))
    else:
        logits = _logits(model, inputs)
        both = torch.stack([token_kl(logits, reference.logits), token_logps(logits, tokens)])
    divergence, logps = both.unbind()
    return spread(divergence, inputs.lengths)[0], spread(logps, inputs.lengths)[0]


def spread(values: Tensor, lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
    """(M,) values of the sequences' tokens as (N, R), 0 where there is no token, and the mask of the tokens; R is at least 1."""
    width = max(1, *lengths)
    mask = (torch.arange(width) >= width - torch.tensor(lengths)[:, None]).to(values.device)
    return torch.zeros(mask.shape, dtype=values.dtype, device=values.device).masked_scatter(mask, values), mask


def token_logps(logits: Tensor, tokens: Tensor) -> Tensor:
    """log softmax(logits)[token], in float32 whatever the dtype of the logits.

    The softmax is computed in chunks of tokens and again in the backward pass: neither pass holds a float32 copy of all logits.

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
        normaliser = torch.cat([chunk.float().logsumexp(-1) for chunk in logits.split(rows_at_once(logits.shape[-1]))])
        ctx.save_for_backward(logits, tokens, normaliser)
        return logits.gather(-1, tokens[:, None]).squeeze(-1).float() - normaliser

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """gradient (M,) -> (M, V) in the dtype of the logits."""
        logits, tokens, normaliser = ctx.saved_tensors
        result = torch.empty_like(logits)
        rows = rows_at_once(logits.shape[-1])
        for start in range(0, len(logits), rows):
            part = slice(start, start + rows)
            probabilities = (logits[part].float() - normaliser[part, None]).exp_()
            wanted = probabilities.mul_(-gradient[part, None])
            wanted.scatter_add_(-1, tokens[part, None], gradient[part, None])
            result[part] = wanted
        return result, None


def _plain_head(model: nn.Module) -> nn.Linear | None:
    """The model's head, where it is a matrix and makes the logits alone."""
    head: Any = model.get_output_embeddings()  # type: ignore[operator]  # not a submodule
    return head if type(head) is nn.Linear and knows(model) else None


def _logits(model: nn.Module, inputs: Inputs) -> Tensor:
    """(M, V) before each response token."""
    return _forward(model, None, inputs, None)


def _forward(model: nn.Module, head: nn.Module | None, inputs: Inputs, instead: Callable[[Tensor], Tensor] | None) -> Tensor:
    """At ``inputs.places``: (M, V) logits, or what ``instead`` makes of the (M, H) that would enter the head."""
    device = next(model.parameters()).device
    width = inputs.input_ids.shape[1]
    first = int((inputs.places % width).min()) if len(inputs.places) else width - 1
    places = (inputs.places // width * (width - first) + inputs.places % width - first).to(device)

    def chosen(values: Tensor) -> Tensor:
        return values.flatten(0, 1).index_select(0, places)

    arguments: dict[str, Any] = {"input_ids": inputs.input_ids.to(device), "use_cache": False, "logits_to_keep": width - first}
    if inputs.position_ids is not None:
        arguments["position_ids"] = inputs.position_ids.to(device)
    if inputs.segments is not None:
        arguments["attention_mask"] = _mask(inputs.segments.to(device), next(model.parameters()).dtype)
    if inputs.bounds is not None:
        arguments |= _stretches(inputs.bounds, device)
    if head is None or instead is None:
        return chosen(model(**arguments).logits)
    with _replaced(head, lambda hidden: instead(chosen(hidden))):
        answer: Tensor = model(**arguments).logits
    return answer


def _stretches(bounds: Sequence[int], device: torch.device) -> dict[str, Any]:
    """What flash attention would find out from the positions in every layer anew, and wait for the device to tell."""
    starts = torch.tensor(bounds, dtype=torch.int32, device=device)
    longest = max(end - start for start, end in itertools.pairwise(bounds))
    return {"cu_seq_lens_q": starts, "cu_seq_lens_k": starts, "max_length_q": longest, "max_length_k": longest}


def _mask(segments: Tensor, dtype: torch.dtype) -> Tensor:
    """(W, 1, L, L) what is added to the scores: attention would make it of a boolean mask in every layer anew.

    Its rows are apart by a multiple of 8: CUDA's memory-efficient attention would copy any other mask in every layer
    (``preprocess_mask`` in torch's attention.cpp).
    """
    width = segments.shape[-1]
    aligned = torch.zeros(len(segments), 1, width, -(-width // 8) * 8, dtype=dtype, device=segments.device)
    return aligned[..., :width].masked_fill_(~sees(segments), torch.finfo(dtype).min)


@contextlib.contextmanager
def _replaced(head: nn.Module, forward: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """The head computes ``forward`` for the time of the block. Its hooks stay: ZeRO-3 gathers its weight with them, for both passes."""
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
    answers: dict[int, NDArray[np.float64]] = {}
    for micro in micro_batches.share(items, 1, micro_batch_tokens, packing_of(model))[0] if items else ():
        logps, mask = response_logps(model, [sequences[k] for k in micro.examples])
        found, present = logps.double().cpu().numpy(), mask.cpu().numpy()
        for k, row, tokens in zip(micro.examples, found, present, strict=True):
            answers[k] = row[tokens]
    return [answers[k] for k in range(len(sequences))]
