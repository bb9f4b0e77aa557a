"""The questions of MT-Bench, at which temperature they are answered, and what the judge is asked.

Source: lm-sys/FastChat ``fastchat/llm_judge/common.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

TEMPERATURES: Mapping[str, float] = {
    "writing": 0.7,
    "roleplay": 0.7,
    "extraction": 0.0,
    "math": 0.0,
    "coding": 0.0,
    "reasoning": 0.0,
    "stem": 0.1,
    "humanities": 0.1,
}
"""Sampling temperature by category; FastChat takes 0.7 for any other category."""
OTHER_TEMPERATURE = 0.7
NEED_REFERENCE = ("math", "reasoning", "coding")
"""Categories whose answers the judge compares with a reference answer."""

Mode = Literal["single", "pair"]


@dataclass(frozen=True, slots=True)
class Question:
    """One question; the second turn refers to the answer to the first."""

    id: int | str
    category: str
    turns: tuple[str, ...]
    place: str
    """``file:line``."""

    @property
    def temperature(self) -> float:
        """At which FastChat samples its answers."""
        return TEMPERATURES.get(self.category, OTHER_TEMPERATURE)

    @property
    def needs_reference(self) -> bool:
        return self.category in NEED_REFERENCE


@dataclass(frozen=True, slots=True)
class JudgePrompt:
    """What the judge is asked."""

    name: str
    system: str
    template: str
    """The user's message, with the names of its parts in braces."""


Answers = Mapping[int | str, tuple[str, ...]]
"""question_id -> a text for each turn."""
