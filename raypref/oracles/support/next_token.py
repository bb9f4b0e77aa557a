"""Log-probs of the token after a prompt, by a causal language model of transformers. Beginnings that prompts share are computed once.

    context + A1 -> keys and values -> + B2 ... -> log-probs        one forward pass over the starts, padded on the left,
                                    -> + B3 ... -> log-probs        then one over the rests, each after its start and
    context + A2 -> keys and values -> + B1 ... -> log-probs        padded on the right: no padding between two tokens

What a causal model computes for a token does not depend on what follows, so this is exact. Apart from rounding, a prompt's log-probs do
not depend on the other prompts.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raypref.errors import ConfigError
from raypref.oracles.support.token_batches import padded, token_batches

Ids = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Family:
    """Prompts with a common start."""

    start: int
    """Number of first tokens that are computed once; every member has at least one more."""
    members: tuple[Ids, ...]


def families(prompts: Sequence[Ids]) -> list[Family]:
    """Group prompts by common starts so that the fewest tokens are computed. Each prompt has one start; starts are not nested.

    Args:
        prompts: sorted, different from each other, none empty.
    """
    rows = [np.asarray(prompt) for prompt in prompts]
    alike = [_common(a, b) for a, b in itertools.pairwise(rows)]

    def group(low: int, high: int) -> tuple[int, list[Family]]:
        """The cost in tokens of prompts[low:high], and their groups."""
        members = prompts[low:high]
        if len(members) == 1:
            return len(members[0]), [Family(len(members[0]) - 1, tuple(members))]
        fork = min(alike[low : high - 1])
        cuts = [low, *(k + 1 for k in range(low, high - 1) if alike[k] == fork), high]
        parts = [group(a, b) for a, b in itertools.pairwise(cuts)]
        apart = sum(cost for cost, _ in parts)
        start = min(fork, len(members[0]) - 1)  # in sorted order, a prompt that is the start of others comes before them
        together = start + sum(len(member) - start for member in members)
        if together < apart:
            return together, [Family(start, tuple(members))]
        return apart, [family for _, grouped in parts for family in grouped]

    return group(0, len(prompts))[1] if prompts else []


def _common(a: NDArray[Any], b: NDArray[Any]) -> int:
    """Length of the common start, in tokens."""
    size = min(len(a), len(b))
    differ = np.flatnonzero(a[:size] != b[:size])
    return int(differ[0]) if len(differ) else size


class TransformersNextToken:
    """``NextToken`` with a model in memory."""

    def __init__(self, model: Any, batch_tokens: int | None = None) -> None:
        """
        Args:
            model: a causal language model of transformers, in evaluation mode.
            batch_tokens: largest number of tokens of a forward pass, padding and cached tokens included; default: by device.
        """
        self._model = model
        self._batch_tokens = batch_tokens

    def logprobs(self, prompts: Sequence[Sequence[int]], tokens: Sequence[int]) -> NDArray[np.float64]:
        """See ``raypref.oracles.base.NextToken``; the softmax is computed in float32.

        Raises:
            ValueError: a prompt is empty.
        """
        import torch

        asked = [tuple(prompt) for prompt in prompts]
        if () in asked:
            raise ValueError("logprobs: an empty prompt leaves nothing to condition the next token on")
        logps: dict[Ids, list[float]] = {}
        grouped = families(sorted(set(asked)))
        with torch.inference_mode():
            for batch in self._batches([family.start for family in grouped]):
                logps.update(self._of_families([grouped[k] for k in batch], tokens))
        return np.array([logps[prompt] for prompt in asked], dtype=np.float64).reshape(len(asked), len(tokens))

    def _batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        return token_batches(lengths, self._batch_tokens, self._model.device.type)

    def _of_families(self, grouped: Sequence[Family], tokens: Sequence[int]) -> dict[Ids, list[float]]:
        """Prompt -> log-probs of ``tokens``."""
        cache, present = self._begin([family.members[0][: family.start] for family in grouped])
        places = [(k, member) for k, family in enumerate(grouped) for member in family.members]
        rests = [member[grouped[k].start :] for k, member in places]
        by_prompt = {}
        for batch in self._batches([present.shape[1] + len(rest) for rest in rests]):
            logps = self._finish(cache, present, [places[n][0] for n in batch], [rests[n] for n in batch])
            for n, row in zip(batch, logps[:, list(tokens)].double().tolist(), strict=True):
                by_prompt[places[n][1]] = row
        return by_prompt

    def _begin(self, starts: Sequence[Ids]) -> tuple[Any, Any]:
        """Keys and values of G starts, and the (G, P) mask of their tokens; padded on the left. A start may be empty."""
        from transformers import DynamicCache

        device = self._model.device
        ids, present = (part.flip(1) for part in padded([start[::-1] for start in starts], 0, device))
        cache = DynamicCache()  # without the config, so that it keeps all tokens; the mask applies sliding windows
        if ids.shape[1]:
            positions = (present.cumsum(1) - 1).clamp_min(0)
            self._model(
                input_ids=ids, attention_mask=present, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1
            )
        return cache, present

    def _finish(self, cache: Any, present: Any, owners: Sequence[int], rests: Sequence[Ids]) -> Any:
        """(N, V) log-probs after the last token of each rest; ``owners`` holds the number of each rest's start."""
        import torch
        from transformers import DynamicCache

        device = self._model.device
        ids, mask = padded(rests, 0, device)
        chosen = torch.tensor(owners, device=device)
        before = present[chosen]
        last = mask.sum(1) - 1
        steps = torch.minimum(torch.arange(ids.shape[1], device=device)[None], last[:, None])
        with _head_reads(self._model.get_output_embeddings(), last):
            output = self._model(
                input_ids=ids,
                attention_mask=torch.cat([before, mask], dim=1),
                position_ids=before.sum(1, keepdim=True) + steps,
                past_key_values=DynamicCache([(layer.keys[chosen], layer.values[chosen]) for layer in cache.layers]),
                use_cache=True,
            )
        return output.logits[:, 0].float().log_softmax(-1)


@contextlib.contextmanager
def _head_reads(head: Any, positions: Any) -> Iterator[None]:
    """Give the model's head only one position of each row, (N,), so that no other logits are computed."""
    import torch

    def pick(_: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden = inputs[0]
        return (hidden[torch.arange(len(hidden), device=hidden.device), positions][:, None],)

    handle = head.register_forward_pre_hook(pick)
    try:
        yield
    finally:
        handle.remove()


def load_next_token(path: str, *, dtype: str, device: str, batch_tokens: int | None) -> TransformersNextToken:
    """Load a model for ``NextToken``. Weights are read from safetensors files only, so that nothing is unpickled.

    Args:
        path: Hugging Face model directory or hub name.
        dtype: ``float32`` or ``bfloat16``.
        device: ``cuda`` or ``cpu``.
        batch_tokens: see ``TransformersNextToken``.

    Raises:
        ConfigError: it cannot be loaded, or is not an attention model.
    """
    import torch
    from transformers import AutoModelForCausalLM

    try:
        model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, dtype), use_safetensors=True)
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"oracle.path: cannot load {path!r}: {error}") from error
    if model._is_stateful:
        raise ConfigError(f"oracle.path: {path!r} keeps a recurrent state, which cannot be shared between inputs; set oracle.engine=vllm")
    return TransformersNextToken(model.to(device).requires_grad_(False).eval(), batch_tokens)
