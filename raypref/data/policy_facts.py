"""What data must know of the policy that reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raypref.data.chat_template import assistant_turn


@dataclass(frozen=True, slots=True)
class PolicyFacts:
    """The policy's tokenizer and limits."""

    tokenizer: Any
    """A tokenizer of transformers."""
    context_tokens: int
    """What the policy can read, prompt and response together, in tokens."""
    end_token_ids: tuple[int, ...]
    """The tokens at which an answer ends, as ``end_tokens`` orders them."""
    vocabulary: int | None = None
    """Rows of the model's token embedding: ids from 0 up to, not including, this number. None: not known."""

    @property
    def plain_end(self) -> int:
        """The token that ends an answer in plain text: the tokenizer's ``eos_token`` if it is an end token, else the first end token."""
        eos: int | None = self.tokenizer.eos_token_id
        return eos if eos is not None and eos in self.end_token_ids else self.end_token_ids[0]

    def decoded(self, tokens: NDArray[np.int32]) -> str:
        """The text of a response, (T,) tokens: without special tokens, and without its end token, which need not be a special one."""
        ids = tokens.tolist()
        return str(self.tokenizer.decode(ids[:-1] if ids and ids[-1] in self.end_token_ids else ids, skip_special_tokens=True))


def end_tokens(tokenizer: Any, named: Sequence[int]) -> tuple[int, ...]:
    """The tokens at which an answer ends, each once, in this order:

    1. the tokenizer's ``eos_token``, at which vLLM stops, too, whether or not the model names it;
    2. those that the model names, in its order;
    3. the token with which the chat template ends an assistant's turn.

    Args:
        tokenizer: the policy's.
        named: ``eos_token_id`` of generation_config.json, else of config.json.
    """
    first = () if tokenizer.eos_token_id is None else (int(tokenizer.eos_token_id),)
    return tuple(dict.fromkeys((*first, *map(int, named), *_turn_end(tokenizer))))


def _turn_end(tokenizer: Any) -> tuple[int, ...]:
    """The special token that the chat template writes behind an answer; empty where it writes none, or text before it."""
    turn = assistant_turn(tokenizer)
    if turn is None or turn.asks:
        return ()
    after = turn.after.lstrip()
    written = [
        (len(token.content), number)
        for number, token in tokenizer.added_tokens_decoder.items()
        if token.special and after.startswith(token.content)
    ]
    return (max(written)[1],) if written else ()
