"""Answers that come as chats or transcripts: the turns that they share belong to the prompt, and the last one is the answer.

A record may also have a prompt of its own. Then both must agree, and the policy is given the longer one of the two:

| prompt | shared turns | the policy is given |
| --- | --- | --- |
| anything | none | the prompt |
| anything | begin with the assistant's turn | the prompt, and then the shared turns |
| a text | one user's turn of them is that text | the shared turns |
| a chat | begin with the prompt's turns | the shared turns |
| a chat | are the last turns of the prompt | the prompt |

Anything else is a contradiction, and is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from raypref.data.answers import answer_texts
from raypref.data.chats import Chat
from raypref.data.config import DataConfig
from raypref.data.record_prompts import has_prompt, prompt_chat, prompt_of, read_chat
from raypref.data.records import Record, fields_of
from raypref.errors import DataError

_ROLES = {"Human": "user", "Assistant": "assistant", "System": "system"}
_MARKER = "\n\nAssistant:"


def prompt_and_answers(given: Sequence[Any], record: Record, config: DataConfig, name: str) -> tuple[str | Chat, tuple[str, ...]]:
    """The prompt and the answers of a record whose answers are texts, or chats with or without the prompt's turns.

    Args:
        given: the answers as the record holds them.
        record: the record.
        config: the data section.
        name: of the answers' field.

    Raises:
        DataError: an answer is empty or no text, or prompt and chats contradict each other.
    """
    if (chats := as_chats(given, record, config)) is None:
        return prompt_of(record, config), answer_texts(given, record, repr(name))
    shared, answers = split_chats(chats, record, repr(name))
    prompt = prompt_beside(shared, record, config, given=has_prompt(record, config))
    return prompt, answer_texts(answers, record, repr(name))


def as_chats(answers: Sequence[Any], record: Record, config: DataConfig) -> list[Chat] | None:
    """Answers that are lists of messages, or single messages; None if one is neither.

    Raises:
        DataError: a message is malformed.
    """
    if not all(isinstance(answer, list | tuple | Mapping) and answer for answer in answers):
        return None
    return [read_chat([answer] if isinstance(answer, Mapping) else answer, record, config) for answer in answers]


def split_chats(chats: Sequence[Chat], record: Record, names: str) -> tuple[Chat, list[str]]:
    """The turns that all chats share, and each chat's last turn, the assistant's answer.

    Args:
        chats: of one record.
        record: for its place.
        names: the fields, for messages.

    Raises:
        DataError: the chats differ before their last turns, or a last turn is not the assistant's, or holds more than text.
    """
    shared = chats[0].turns[:-1]
    for chat in chats:
        if chat.turns[:-1] != shared or chat[-1]["role"] != "assistant":
            common = next((k for k, (a, b) in enumerate(zip(shared, chat.turns, strict=False)) if a != b), len(shared))
            raise DataError(
                f"{record.place}: after the turns that both chats share there must be one assistant's turn (in {names}), got "
                f"{[turn['role'] for turn in chat[common:]]} after {common} shared turns"
            )
        if further := chat[-1].keys() - {"role", "content"}:
            keys = ", ".join(sorted(further))
            raise DataError(
                f"{record.place}: an answer (in {names}) has {keys} beside its text, which would not be trained on; leave it out of the "
                f"data, or name the key in data.dropped_message_keys"
            )
    return Chat(shared, chats[0].tools), [str(chat[-1]["content"]) for chat in chats]


def prompt_beside(shared: Chat, record: Record, config: DataConfig, *, given: bool) -> str | Chat:
    """The prompt of a record whose answers are chats; see the table above.

    Args:
        shared: the turns that the answers share.
        record: the record.
        config: the data section.
        given: whether the record has a prompt beside the chats that is to be read.

    Raises:
        DataError: prompt and shared turns contradict each other, or there is neither.
    """
    if not given:
        if not shared:
            raise DataError(
                f"{record.place}: the chats share no turn, and there is no field {config.prompt_field!r} with the prompt; fields here: "
                f"{fields_of(record)}; see data.prompt_field"
            )
        return prompt_chat(shared, record.place)
    prompt = prompt_of(record, config)
    if not shared:
        return prompt
    turns = prompt if isinstance(prompt, Chat) else Chat.of([("user", prompt)])
    if shared[0]["role"] == "assistant":
        return prompt_chat(turns.followed_by(*shared), record.place)
    is_text = not isinstance(record.values.get(config.prompt_field), list | tuple)
    text = turns[-1]["content"].strip()
    if is_text and len(shared) == 1 and shared[0]["role"] == "user" and shared[0]["content"].strip() == text:
        return prompt
    if is_text and any(turn["role"] == "user" and turn["content"].strip() == text for turn in shared):
        return prompt_chat(shared, record.place)
    if not is_text and shared.turns[: len(turns)] == turns.turns:
        return prompt_chat(shared, record.place)
    if not is_text and turns.turns[-len(shared) :] == shared.turns:
        return prompt
    raise DataError(
        f"{record.place}: the prompt (field {config.prompt_field!r}) is not among the turns that the answers share, "
        f"{[turn['role'] for turn in shared]}; make them agree, or set data.layout=conversations, which does not read the prompt's field"
    )


def split_transcripts(chosen: str, rejected: str, record: Record, config: DataConfig) -> tuple[str | Chat, list[str]]:
    """HH-RLHF: everything up to the last ``Assistant:`` is the prompt. Without a chat template it remains a text.

    Raises:
        DataError: the texts are no transcripts that differ in the last answer alone.
    """
    sides = [text.rpartition(_MARKER) for text in (chosen, rejected)]
    if any(not marker for _, marker, _ in sides) or sides[0][0] != sides[1][0]:
        raise DataError(
            f"{record.place}: without {config.prompt_field!r}, both texts must be transcripts of Human: and Assistant: turns that differ "
            f"in the last answer alone; see data.prompt_field"
        )
    answers = [answer.strip() for _, _, answer in sides]
    if any(re.search(r"\n\n(Human|System):", answer) for answer in answers):
        raise DataError(f"{record.place}: a transcript ends with another turn than the Assistant's; the last one must be the answer")
    dialogue = sides[0][0]
    if not config.chat_template:
        return dialogue + _MARKER, [f" {answer}" for answer in answers]
    parts = re.split(r"\n\n(Human|Assistant|System): ?", dialogue)
    turns = [(_ROLES[role], text.strip()) for role, text in zip(parts[1::2], parts[2::2], strict=True)]
    if parts[0].strip() or not turns:
        raise DataError(f"{record.place}: a transcript begins with a turn, such as '\\n\\nHuman: ...', got {chosen[:40]!r}")
    return prompt_chat(Chat.of(turns), record.place), answers
