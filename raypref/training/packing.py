"""Sequences as the rows of one forward pass: padded, with prefix sharing, or with varlen packing.

Shapes: N sequences, W rows, L positions of a row, M response tokens of all sequences.

    padded          p p p a a a .        one row per sequence, padded at its end; a causal model needs no mask for that
                    q q b b b b b
    prefix_sharing  p p p a a a b b      one row for several responses to a prompt: a mask lets a attend to p and a, and b to p and b;
                                         the positions of both a and b continue from the end of p
    varlen          p p p a a a q q b    all sequences in one row without padding; positions restart with each sequence, and the kernel
                                         separates them by cu_seqlens (flash_attention_2)

The last token of a response is left out, since nothing is predicted from it. Sequences that occur twice are computed once.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raypref import types

_VERIFIED = frozenset({"gemma", "llama", "mistral", "olmo2", "qwen2", "qwen3"})
"""``model_type`` of the models whose forward pass (transformers 5.19) was read and is tested: a mask of four dimensions reaches the
attention unchanged, positions are ``position_ids``, and the output of the head is returned unchanged. Other models get padded rows."""

CUDA_MASKED, CUDA_CAUSAL = 3.0, 6.0
"""Break-even length of sdpa on a GPU, over the hidden size. Flash attention's causal kernel skips what is masked; the memory-efficient
kernel, which a mask needs, computes everything, more slowly. Measured on an H200: layers of Llamas, bfloat16, both passes over 16,384
tokens in rows of 1024 to 8192. At H = 4096 with Liger's kernels a layer takes 33.9 ms + 1.07 us per token of a row's length without a mask,
and 33.9 ms + 3.01 us with one. The quotients over H, for H = 2048, 3072 and 4096: 8.3, 7.2, 7.8 without a mask (10.5, 10.5, 10.7 without
Liger's kernels) and 2.8, 2.3, 2.7 with one (3.6, 3.0, 3.4). Without a mask 6 is taken: rows that need none may meet rows that do in their
micro-batch, and have one then. On seven kinds of data (1.2B parameters, H = 2048), steps with 3 and 6 were as fast as with the constants of
a CPU or up to 11% faster; with 3 and 9 they were between 1% faster and 4% slower than with 3 and 6."""


@dataclass(frozen=True, slots=True)
class Packing:
    """How the inputs of a model are laid out."""

    kind: Literal["padded", "prefix_sharing", "varlen"] = "padded"
    break_even_tokens: float = 1.0
    """Context length at which attention costs as much as the rest of the layer; it grows with the width of the model."""
    causal_break_even_tokens: float | None = None
    """The same for rows that need no mask, since none holds more than one response; None: there is no difference."""


@dataclass(frozen=True, slots=True)
class Row:
    """A prompt and responses to it."""

    prompt_ids: NDArray[np.int32]
    response_ids: tuple[NDArray[np.int32], ...]

    @property
    def tokens(self) -> int:
        """Positions of the row."""
        return len(self.prompt_ids) + sum(_input_length(response) for response in self.response_ids)


@dataclass(frozen=True, slots=True)
class Inputs:
    """The arguments of a forward pass, and the places of its results."""

    input_ids: Tensor
    """(W, L) int64; padding is token 0, which every vocabulary has."""
    position_ids: Tensor | None
    """(W, L) int64; None: 0 to L - 1."""
    segment_ids: Tensor | None
    """(W, L) int64 for ``prefix_sharing_mask``; None: plain causal attention."""
    cu_seqlens: tuple[int, ...] | None
    """Start of each sequence, and the end of the last; None without varlen packing."""
    logit_indices: Tensor
    """(M,) int64 into W L: the position whose logits predict each response token, in the order of the sequences."""
    tokens: Tensor
    """(M,) int64 the response tokens."""
    lengths: tuple[int, ...]
    """(N,) response tokens of each sequence."""


def text_config(model: Any) -> Any:
    """The config of the language model inside the wrappers: DeepSpeed's engine has another attribute ``config``."""
    return getattr(model, "module", model).config.get_text_config()


def supports_packing(model: Any) -> bool:
    """Whether the model's forward pass is a verified one, which may be given packed rows and of which the head may be replaced.

    The class must come from transformers, since a model with custom code may use any ``model_type``. Rotary frequencies of type dynamic or
    longrope are not supported: they depend on the longest row, so the results of a row would depend on the other rows.
    """
    config = text_config(model)
    full_attention = set(getattr(config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
    fixed_rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default") not in ("dynamic", "longrope")
    from_transformers = type(unwrapped(model)).__module__.startswith(f"transformers.models.{config.model_type}.")
    return (
        from_transformers
        and config.model_type in _VERIFIED
        and full_attention
        and fixed_rope
        and getattr(config, "sliding_window", None) is None
    )


def unwrapped(model: Any) -> Any:
    """The transformers model inside the wrappers of DeepSpeed and peft."""
    inside = getattr(model, "module", model)
    return inside.get_base_model() if hasattr(inside, "get_base_model") else inside


def packing_of(model: Any) -> Packing:
    """The layout for a causal language model of transformers, which peft or DeepSpeed may wrap."""
    return packing_on(model, unwrapped(model).device.type)


def packing_on(model: Any, device: str) -> Packing:
    """The layout if the model computes on a device of this type (``cuda``, ``cpu``). Its weights do not matter."""
    config = text_config(model)
    attention = config._attn_implementation
    if supports_packing(model) and attention in ("sdpa", "eager"):
        if attention == "sdpa" and device == "cuda":
            return Packing("prefix_sharing", CUDA_MASKED * config.hidden_size, CUDA_CAUSAL * config.hidden_size)
        return Packing("prefix_sharing", _break_even_tokens(config.hidden_size, config.num_attention_heads))
    return Packing("varlen" if supports_packing(model) and attention == "flash_attention_2" else "padded")


def _break_even_tokens(hidden_size: int, heads: int) -> float:
    """A layer takes 24 H^2 operations per position, and 4 H + 96 heads for each position attended to: two products, and an exponential
    with its overhead (66 to 125 operations were measured on a CPU, heads of 8 to 64). Skipping masked positions saved nothing there."""
    return 24 * hidden_size**2 / (4 * hidden_size + 96 * heads)


def rows_of(sequences: Sequence[types.TokenSequence], packing: Packing) -> list[Row]:
    """The rows of the sequences; each distinct sequence is in exactly one row.

    With prefix sharing, the responses to a prompt are distributed over the number of rows that costs least. Each of these rows is padded
    to the longest one, of L positions, and costs L + L^2 / break_even_tokens; the mask of one row is a mask for all.

    Raises:
        ValueError: there is no sequence, or one has an empty prompt.
    """
    if not sequences:
        raise ValueError("a forward pass over no sequences")
    prompts: dict[bytes, dict[bytes, types.TokenSequence]] = {}
    for sequence in sequences:
        if len(sequence.prompt_ids) == 0:
            raise ValueError("an empty prompt leaves nothing to condition the first response token on")
        prompts.setdefault(_key(sequence.prompt_ids), {}).setdefault(_key(sequence.response_ids), sequence)
    return [row for group in prompts.values() for row in _cheapest_rows(list(group.values()), packing)]


def _cheapest_rows(group: Sequence[types.TokenSequence], packing: Packing) -> list[Row]:
    """The rows of sequences with the same prompt."""
    prompt = group[0].prompt_ids
    responses = sorted((sequence.response_ids for sequence in group), key=len, reverse=True)
    if packing.kind != "prefix_sharing":
        return [Row(prompt, (response,)) for response in responses]
    candidates = (_balanced_rows(prompt, responses, count) for count in range(1, len(group) + 1))
    return min(candidates, key=lambda rows: _operations(rows, packing))


def _balanced_rows(prompt: NDArray[np.int32], responses: Sequence[NDArray[np.int32]], count: int) -> list[Row]:
    """``count`` rows of similar length: each response, longest first, goes to the shortest row."""
    by_row: list[list[NDArray[np.int32]]] = [[] for _ in range(count)]
    loads = [(0, row) for row in range(count)]
    for response in responses:
        load, row = loads[0]
        by_row[row].append(response)
        heapq.heapreplace(loads, (load + len(response), row))
    return [Row(prompt, tuple(in_row)) for in_row in by_row]


def _operations(rows: Sequence[Row], packing: Packing) -> float:
    """Cost of the rows, in units of a position's cost without attention."""
    width = max(row.tokens for row in rows)
    break_even_tokens = packing.break_even_tokens
    if packing.causal_break_even_tokens is not None and all(len(row.response_ids) == 1 for row in rows):
        break_even_tokens = packing.causal_break_even_tokens
    return len(rows) * (width + width**2 / break_even_tokens)


def model_inputs(sequences: Sequence[types.TokenSequence], packing: Packing) -> Inputs:
    """The arguments of a forward pass over the sequences.

    Raises:
        ValueError: as ``rows_of``.
    """
    rows = rows_of(sequences, packing)
    varlen = packing.kind == "varlen"
    starts = np.cumsum([0] + [row.tokens for row in rows])
    width = int(starts[-1]) if varlen else max(row.tokens for row in rows)
    origins = starts[:-1] if varlen else np.arange(len(rows)) * width
    shape = (1 if varlen else len(rows), width)
    tokens, positions, segment_ids = (np.full(shape[0] * width, fill, dtype=np.int64) for fill in (0, 0, -1))
    by_sequence: dict[tuple[bytes, bytes], NDArray[np.int64]] = {}
    for origin, row in zip(origins.tolist(), rows, strict=True):
        here = slice(origin, origin + row.tokens)
        tokens[here] = np.concatenate([row.prompt_ids, *(response[:-1] for response in row.response_ids)])
        positions[here] = _positions(row)
        segment_ids[here] = _segment_ids(row)
        at = origin + len(row.prompt_ids)
        for response in row.response_ids:
            indices = np.arange(at - 1, at + len(response) - 1)
            indices[:1] = origin + len(row.prompt_ids) - 1  # the first token is predicted from the end of the prompt
            by_sequence[_key(row.prompt_ids), _key(response)] = indices
            at += _input_length(response)
    shared = any(len(row.response_ids) > 1 for row in rows)
    logit_indices = [by_sequence[_key(sequence.prompt_ids), _key(sequence.response_ids)] for sequence in sequences]
    return Inputs(
        input_ids=torch.from_numpy(tokens.reshape(shape)),
        position_ids=torch.from_numpy(positions.reshape(shape)) if shared or varlen else None,
        segment_ids=torch.from_numpy(segment_ids.reshape(shape)) if shared else None,
        cu_seqlens=tuple(starts.tolist()) if varlen else None,
        logit_indices=torch.from_numpy(np.concatenate(logit_indices)),
        tokens=torch.from_numpy(np.concatenate([sequence.response_ids for sequence in sequences]).astype(np.int64)),
        lengths=tuple(len(sequence.response_ids) for sequence in sequences),
    )


def _positions(row: Row) -> NDArray[np.int64]:
    """0, 1, ... over the prompt; each response continues from the end of the prompt."""
    end = len(row.prompt_ids)
    return np.concatenate([np.arange(end), *(np.arange(end, end + _input_length(response)) for response in row.response_ids)])


def _segment_ids(row: Row) -> NDArray[np.int64]:
    """0 over the prompt, 1, 2, ... over the responses."""
    return np.repeat(np.arange(1 + len(row.response_ids)), [len(row.prompt_ids), *map(_input_length, row.response_ids)])


def prefix_sharing_mask(segment_ids: Tensor) -> Tensor:
    """(W, 1, L, L) bool: a position attends to itself, to earlier positions of its segment, and to the prompt.

    Computed in place, which halves the time.

    Args:
        segment_ids: (W, L): 0 over the prompt, 1, 2, ... over the responses, -1 over padding; on the device that needs the mask.
    """
    query, key = segment_ids[:, :, None], segment_ids[:, None, :]
    return (query == key).logical_or_(key == 0).tril_()[:, None]


def _input_length(response: NDArray[np.int32]) -> int:
    """Response tokens that the model gets as input: all but the last."""
    return max(len(response) - 1, 0)


def _key(tokens: NDArray[np.int32]) -> bytes:
    return np.asarray(tokens, dtype=np.int64).tobytes()
