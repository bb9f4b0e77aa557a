"""What data must know of the policy that reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class PolicyFacts:
    """The policy's tokenizer and limits."""

    tokenizer: Any
    """A tokenizer of transformers."""
    context_tokens: int
    """What the policy can read, prompt and response together, in tokens."""
    end_token_ids: tuple[int, ...]
    """The tokens at which an answer ends. The first one ends given answers; a tokenizer's ``eos_token`` may be another."""
