"""Where a record becomes a prompt: a text or a chat, and the plain text of it that an oracle is shown.

What the policy is given, as text and as token ids, is made of it in ``raypref.data.tokenization``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raypref.data.chats import Chat, chat_of_messages, refuse_written_chat, shortened
from raypref.data.config import DataConfig
from raypref.data.records import Record, check_texts, field_of, value_of
from raypref.data.templates import template_of
from raypref.errors import DataError
from raypref.types import Prompt

PARTS = ("system", "system_prompt", "history")
"""Fields that belong to a prompt by their names."""
_PARTS_BESIDE = {"instruction": ("input", "context"), "question": ("context",)}
"""Those that belong to a prompt in a field of this name (Alpaca, Dolly)."""

IGNORE = "name the field in data.ignored_fields"


def prompt_of(record: Record, config: DataConfig) -> str | Chat:
    """The prompt of a record, a text or a chat, checked. Where a record has none, ``data.template`` composes it from other fields.

    Raises:
        DataError: the prompt is missing, empty, or neither a text nor a chat that ends with the user's turn.
    """
    composed = _composed(record, config)
    if composed is not None:
        return composed
    prompt = field_of(record, config.prompt_field, "data.prompt_field")
    if isinstance(prompt, str):
        if not prompt.strip() and (prompt or not config.empty_prompts):
            from_nothing = "; for texts from nothing set data.empty_prompts=true" if not prompt and not config.chat_template else ""
            raise DataError(f"{record.place}: the prompt in field {config.prompt_field!r} is empty{from_nothing}")
        refuse_written_chat(prompt, record.place, f"the prompt in field {config.prompt_field!r}")
        if (turns := _turns_beside(record, prompt)) is not None:
            return turns
        if value_of(record, config.tools_field) is None:
            return prompt
        chat = read_chat([{"role": "user", "content": prompt}], record, config)
        return chat if chat.tools else prompt
    if isinstance(prompt, Sequence) and not isinstance(prompt, bytes) and prompt:
        return prompt_chat(read_chat(prompt, record, config), record.place)
    raise DataError(f"{record.place}: field {config.prompt_field!r} must be a text or a list of chat messages, got {shortened(prompt)}")


def _turns_beside(record: Record, prompt: str) -> Chat | None:
    """The field ``chat`` of a run's rollouts, where the prompt's text is that chat written as one text (``bare_text``)."""
    turns = record.values.get("chat")
    if not isinstance(turns, list | tuple) or len(turns) < 2:
        return None
    if not all(isinstance(turn, Mapping) and turn.keys() == {"role", "content"} for turn in turns):
        return None
    chat = Chat.of((turn["role"], turn["content"]) for turn in turns)
    return prompt_chat(chat, record.place) if bare_text(chat) == prompt else None


def has_prompt(record: Record, config: DataConfig) -> bool:
    """Whether the record has a prompt, or the fields from which ``data.template`` composes one."""
    return record.values.get(config.prompt_field) is not None or _composed(record, config) is not None


def _composed(record: Record, config: DataConfig) -> str | None:
    if config.template is None or record.values.get(config.prompt_field) is not None:
        return None
    composed = template_of(config.template).compose(record.values)
    check_texts(record, "data.template", composed)
    return composed


def refuse_unread(record: Record, prompt: str | Chat, config: DataConfig, *, otherwise: str = IGNORE) -> None:
    """Refuse a record that has a part of its prompt in a field of its own, which is not read: a system turn, a history, an input.

    A part that stands in the prompt as well is read. Fields that ``data.*_field`` or ``data.ignored_fields`` names are not looked at.

    Args:
        record: the record.
        prompt: what was read of it.
        config: the data section.
        otherwise: what else the user can do than write the part into the prompt.

    Raises:
        DataError: naming the field.
    """
    names = [name for name in (*PARTS, *_PARTS_BESIDE.get(config.prompt_field, ())) if record.values.get(name)]
    if not names:  # of almost every record; looking at the whole config for each would take a third of a large file's time
        return
    known = {value for key, value in config if key.endswith("_field")} | set(config.ignored_fields)
    for name in names:
        if name not in known:
            shown = bare_text(prompt)
            text = next((text for text in _texts(value_of(record, name)) if text.strip() not in shown), None)
            if text is not None:
                raise DataError(
                    f"{record.place}: the field {name!r} belongs to a prompt, but is not in the one that is read (field "
                    f"{config.prompt_field!r}), got {shortened(text, 80)}; write it into the prompt, as text or as a message, or "
                    f"{otherwise}"
                )


def _texts(value: Any) -> Iterator[str]:
    """All texts in a value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if key != "role":
                yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)


def read_chat(messages: Any, record: Record, config: DataConfig) -> Chat:
    """Messages of a record as a chat, with the record's tools.

    Raises:
        DataError: a message is malformed.
    """
    return chat_of_messages(messages, record.place, value_of(record, config.tools_field), config.dropped_message_keys)


def prompt_chat(turns: Any, place: str) -> Chat:
    """A chat that the policy is to answer.

    Args:
        turns: a list of messages, or a chat.
        place: of the record.

    Raises:
        DataError: a message is malformed, or the last one is empty or the assistant's.
    """
    chat = turns if isinstance(turns, Chat) else chat_of_messages(turns, place)
    if not chat:
        raise DataError(f"{place}: the chat has no message")
    if chat[-1]["role"] == "assistant":
        raise DataError(f"{place}: the chat ends with the assistant's turn; the policy is to write that one")
    if not chat[-1]["content"].strip():
        raise DataError(f"{place}: the last message is empty")
    return chat


def bare_text(prompt: str | Chat) -> str:
    """What an oracle is shown: a text as it is; of a single turn its content; a longer chat with ``role: `` before each turn."""
    if isinstance(prompt, str):
        return prompt
    turns = prompt.shown()
    return turns[0][1] if len(turns) == 1 else "\n\n".join(f"{role}: {content}" for role, content in turns)


def chat_of(prompt: str | Chat) -> tuple[tuple[str, str], ...]:
    """(role, content) of a chat's turns, as an oracle is shown them; empty for a text."""
    return () if isinstance(prompt, str) else prompt.shown()


def make_prompt(index: int, name: str, source: str | Chat, token_ids: NDArray[np.int32], *, named: bool = True) -> Prompt:
    """A prompt with what oracles, revisions and the policy need of it.

    Args:
        index: position in the run's stream.
        name: its id.
        source: the text or chat of the data.
        token_ids: (T,) what the policy reads.
        named: whether the data gives the id.
    """
    if isinstance(source, str):
        return Prompt(index, name, source, token_ids, named=named)
    messages = () if source.is_plain else source.turns
    return Prompt(index, name, bare_text(source), token_ids, chat_of(source), messages, source.tools, named)


def source_of(prompt: Prompt) -> str | Chat:
    """The text or chat that a prompt was made of."""
    if prompt.messages:
        return Chat(prompt.messages, prompt.tools)
    return Chat.of(prompt.chat) if prompt.chat else prompt.text
