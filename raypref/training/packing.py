"""Sequences as the rows of one forward pass: with little padding or none, and a prompt once for several of its responses.

Shapes: N sequences, W rows, L positions of a row, M response tokens of all sequences.

    padded      p p p a a a .        a row for each sequence, padded at its end: a causal model needs no mask for that
                p p b b b b b
    shared      p p p a a a b b      a row for several responses to a prompt; a sees p and a, b sees p and b (a mask says so), and the
                                     positions of a and b both go on from the prompt's
    joined      p p p a a a q q b    all sequences in one row, without padding; the positions start anew with each, and the kernel
                                     keeps them apart (flash_attention_2)

A response's last token is left out: nothing is predicted from it. Sequences that occur twice are computed once.
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

_READ = frozenset({"gemma", "llama", "mistral", "olmo2", "qwen2", "qwen3"})
"""``model_type`` of the models whose forward pass (transformers 5.19) was read and is tested: a mask of four dimensions reaches the
attention as it is, positions are ``position_ids``, and what the head returns is returned unchanged. Any other model gets padded rows."""


@dataclass(frozen=True, slots=True)
class Packing:
    """What a model can be given."""

    kind: Literal["padded", "shared", "joined"] = "padded"
    reach: float = 1.0
    """How many positions a position must see for attention to cost as much as all else does; the wider the model, the more."""


@dataclass(frozen=True, slots=True)
class Row:
    """A prompt and responses to it."""

    prompt_ids: NDArray[np.int32]
    response_ids: tuple[NDArray[np.int32], ...]

    @property
    def tokens(self) -> int:
        """Positions that are computed."""
        return len(self.prompt_ids) + sum(_predicting(response) for response in self.response_ids)


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the model is called with, and where its answers are."""

    input_ids: Tensor
    """(W, L) int64; padding is token 0, which every vocabulary has."""
    position_ids: Tensor | None
    """(W, L) int64; None: 0 to L - 1."""
    segments: Tensor | None
    """(W, L) int64, for the mask (``sees``); None: a position sees all earlier ones."""
    bounds: tuple[int, ...] | None
    """Where each joined sequence begins, and the end; None: rows are not joined."""
    places: Tensor
    """(M,) int64 into W L: the position that predicts each response token, one sequence's tokens after the other's."""
    tokens: Tensor
    """(M,) int64 the response tokens."""
    lengths: tuple[int, ...]
    """(N,) response tokens of each sequence."""


def text_config(model: Any) -> Any:
    """The config of the language model inside: DeepSpeed's engine has a ``config`` of its own."""
    return getattr(model, "module", model).config.get_text_config()


def knows(model: Any) -> bool:
    """Whether the model's forward pass is one of those that were read (see the module).

    A model that brings its own code may go by any ``model_type``: what counts is the class. Rotary frequencies of type dynamic or
    longrope are a function of the longest row, so that a row's answers would hang on the others'.
    """
    config = text_config(model)
    whole = set(getattr(config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
    fixed = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default") not in ("dynamic", "longrope")
    own = type(bare(model)).__module__.startswith(f"transformers.models.{config.model_type}.")
    return own and config.model_type in _READ and whole and fixed and getattr(config, "sliding_window", None) is None


def bare(model: Any) -> Any:
    """The model without what DeepSpeed and peft wrap around it."""
    inside = getattr(model, "module", model)
    return inside.get_base_model() if hasattr(inside, "get_base_model") else inside


def packing_of(model: Any) -> Packing:
    """How rows are made for a causal language model of transformers, bare, wrapped by peft or by DeepSpeed."""
    config = text_config(model)
    attention = config._attn_implementation
    if knows(model) and attention in ("sdpa", "eager"):
        return Packing("shared", _reach(config.hidden_size, config.num_attention_heads))
    return Packing("joined" if knows(model) and attention == "flash_attention_2" else "padded")


def _reach(hidden_size: int, heads: int) -> float:
    """A layer takes 24 H^2 operations a position, and 4 H + 96 heads for each position that is seen: two products, and an exponential
    with what belongs to it (66 to 125 were measured on a CPU, heads of 8 to 64). Skipping what is not seen saved nothing there."""
    return 24 * hidden_size**2 / (4 * hidden_size + 96 * heads)


def rows_of(sequences: Sequence[types.TokenSequence], packing: Packing) -> list[Row]:
    """The sequences' rows; each different sequence is in one of them.

    The responses to a prompt are put into the number of rows that costs least, all computed at the width L of the longest: L + L^2 / reach
    each.

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
    return [row for group in prompts.values() for row in _fewest_operations(list(group.values()), packing)]


def _fewest_operations(group: Sequence[types.TokenSequence], packing: Packing) -> list[Row]:
    """Rows of sequences with the same prompt."""
    prompt = group[0].prompt_ids
    responses = sorted((sequence.response_ids for sequence in group), key=len, reverse=True)
    if packing.kind != "shared":
        return [Row(prompt, (response,)) for response in responses]
    return min((_dealt(prompt, responses, count) for count in range(1, len(group) + 1)), key=lambda rows: _operations(rows, packing.reach))


def _dealt(prompt: NDArray[np.int32], responses: Sequence[NDArray[np.int32]], count: int) -> list[Row]:
    """``count`` rows of like length: each response, longest first, goes to the row that has least."""
    hands: list[list[NDArray[np.int32]]] = [[] for _ in range(count)]
    loads = [(0, row) for row in range(count)]
    for response in responses:
        load, row = loads[0]
        hands[row].append(response)
        heapq.heapreplace(loads, (load + len(response), row))
    return [Row(prompt, tuple(hand)) for hand in hands]


def _operations(rows: Sequence[Row], reach: float) -> float:
    """In units of what a position costs that sees nothing."""
    width = max(row.tokens for row in rows)
    return len(rows) * (width + width**2 / reach)


def inputs_of(sequences: Sequence[types.TokenSequence], packing: Packing) -> Inputs:
    """The sequences laid out.

    Raises:
        ValueError: as ``rows_of``.
    """
    rows = rows_of(sequences, packing)
    joined = packing.kind == "joined"
    starts = np.cumsum([0] + [row.tokens for row in rows])
    width = int(starts[-1]) if joined else max(row.tokens for row in rows)
    origins = starts[:-1] if joined else np.arange(len(rows)) * width
    shape = (1 if joined else len(rows), width)
    tokens, positions, segments = (np.full(shape[0] * width, fill, dtype=np.int64) for fill in (0, 0, -1))
    places: dict[tuple[bytes, bytes], NDArray[np.int64]] = {}
    for origin, row in zip(origins.tolist(), rows, strict=True):
        here = slice(origin, origin + row.tokens)
        tokens[here] = np.concatenate([row.prompt_ids, *(response[:-1] for response in row.response_ids)])
        positions[here] = _positions(row)
        segments[here] = _segments(row)
        at = origin + len(row.prompt_ids)
        for response in row.response_ids:
            own = np.arange(at - 1, at + len(response) - 1)
            own[:1] = origin + len(row.prompt_ids) - 1
            places[_key(row.prompt_ids), _key(response)] = own
            at += _predicting(response)
    shared = any(len(row.response_ids) > 1 for row in rows)
    found = [places[_key(sequence.prompt_ids), _key(sequence.response_ids)] for sequence in sequences]
    return Inputs(
        input_ids=torch.from_numpy(tokens.reshape(shape)),
        position_ids=torch.from_numpy(positions.reshape(shape)) if shared or joined else None,
        segments=torch.from_numpy(segments.reshape(shape)) if shared else None,
        bounds=tuple(starts.tolist()) if joined else None,
        places=torch.from_numpy(np.concatenate(found)),
        tokens=torch.from_numpy(np.concatenate([sequence.response_ids for sequence in sequences]).astype(np.int64)),
        lengths=tuple(len(sequence.response_ids) for sequence in sequences),
    )


def _positions(row: Row) -> NDArray[np.int64]:
    """0, 1, ... over the prompt; each response goes on from its end."""
    end = len(row.prompt_ids)
    return np.concatenate([np.arange(end), *(np.arange(end, end + _predicting(response)) for response in row.response_ids)])


def _segments(row: Row) -> NDArray[np.int64]:
    """0 over the prompt, 1, 2, ... over the responses."""
    return np.repeat(np.arange(1 + len(row.response_ids)), [len(row.prompt_ids), *map(_predicting, row.response_ids)])


def sees(segments: Tensor) -> Tensor:
    """(W, 1, L, L) bool: a position sees itself, what came before in its own segment, and the prompt. In place, which halves the time.

    Args:
        segments: (W, L): 0 over the prompt, 1, 2, ... over the responses, -1 over padding; on the device that needs the mask.
    """
    query, key = segments[:, :, None], segments[:, None, :]
    return (query == key).logical_or_(key == 0).tril_()[:, None]


def _predicting(response: NDArray[np.int32]) -> int:
    """How many of its tokens another one follows."""
    return max(len(response) - 1, 0)


def _key(tokens: NDArray[np.int32]) -> bytes:
    return np.asarray(tokens, dtype=np.int64).tobytes()
