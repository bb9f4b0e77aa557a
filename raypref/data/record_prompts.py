"""Where a record becomes a prompt: a text or a chat, and the plain text of it that an oracle is shown.

What the policy is given, as text and as token ids, is made of it in ``raypref.data.tokenization``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from raypref.data.config import DataConfig
from raypref.data.records import Record, field_of
from raypref.data.templates import Messages, template_of
from raypref.errors import DataError


def prompt_of(record: Record, config: DataConfig) -> str | Messages:
    """The prompt of a record, a text or a chat, checked. Where a record has none, ``data.template`` composes it from other fields.

    Raises:
        DataError: the prompt is missing, empty, or neither a text nor a chat that ends with the user's turn.
    """
    composed = _composed(record, config)
    if composed is not None:
        return composed
    prompt = field_of(record, config.prompt_field, "data.prompt_field")
    if isinstance(prompt, str):
        if not prompt.strip():
            raise DataError(f"{record.place}: the prompt in field {config.prompt_field!r} is empty")
        return prompt
    if isinstance(prompt, Sequence) and prompt:
        return prompt_chat(prompt, record.place)
    raise DataError(f"{record.place}: field {config.prompt_field!r} must be a text or a list of chat messages, got {prompt!r}")


def has_prompt(record: Record, config: DataConfig) -> bool:
    """Whether the record has a prompt, or the fields from which ``data.template`` composes one."""
    return record.values.get(config.prompt_field) is not None or _composed(record, config) is not None


def _composed(record: Record, config: DataConfig) -> str | None:
    if config.template is None or record.values.get(config.prompt_field) is not None:
        return None
    return template_of(config.template).compose(record.values)


def turns_of(turns: Sequence[Any], place: str) -> Messages:
    """Chat messages, checked: each has a text 'role' and 'content'; other keys are left out.

    Raises:
        DataError: a message lacks one of them; the message is named.
    """
    for number, turn in enumerate(turns):
        if not (isinstance(turn, Mapping) and isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str)):
            raise DataError(f"{place}: message {number} must have a text 'role' and 'content', got {turn!r}")
    return [{"role": turn["role"], "content": turn["content"]} for turn in turns]


def prompt_chat(turns: Sequence[Any], place: str) -> Messages:
    """A chat that the policy is to answer.

    Raises:
        DataError: a message is malformed, or the last one is empty or the assistant's.
    """
    chat = turns_of(turns, place)
    if chat[-1]["role"] == "assistant":
        raise DataError(f"{place}: the chat ends with the assistant's turn; the policy is to write that one")
    if not chat[-1]["content"].strip():
        raise DataError(f"{place}: the last message is empty")
    return chat


def bare_text(prompt: str | Messages) -> str:
    """What an oracle is shown: a text as it is; of a single turn its content; a longer chat with ``role: `` before each turn."""
    if isinstance(prompt, str):
        return prompt
    if len(prompt) == 1:
        return prompt[0]["content"]
    return "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in prompt)


def chat_of(prompt: str | Messages) -> tuple[tuple[str, str], ...]:
    """(role, content) of a chat's turns; empty for a text."""
    return () if isinstance(prompt, str) else tuple((turn["role"], turn["content"]) for turn in prompt)
