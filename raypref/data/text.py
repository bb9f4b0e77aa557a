"""A record's prompt: what the oracle is shown, and what the policy is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from raypref.config import DataConfig
from raypref.data.records import Record
from raypref.errors import ConfigError, DataError

Messages = list[dict[str, str]]


def prompt_of(record: Record, config: DataConfig) -> str | Messages:
    """The prompt of a record, a text or a chat, checked.

    Raises:
        DataError: it is missing, empty, or neither a text nor a chat that ends with the user's turn.
    """
    prompt = field_of(record, config.prompt_field, "data.prompt_field")
    if isinstance(prompt, str):
        if not prompt.strip():
            raise DataError(f"{record.place}: the prompt in field {config.prompt_field!r} is empty")
        return prompt
    if isinstance(prompt, Sequence) and prompt:
        return _chat(prompt, record.place)
    raise DataError(f"{record.place}: field {config.prompt_field!r} must be a text or a list of chat messages, got {prompt!r}")


def field_of(record: Record, name: str, key: str) -> Any:
    """A field's value.

    Raises:
        DataError: naming the fields that are there, and the config key that chooses another.
    """
    if record.values.get(name) is None:
        raise DataError(f"{record.place}: no field {name!r}; fields here: {', '.join(map(str, record.values))}; see {key}")
    return record.values[name]


def _chat(turns: Sequence[Any], place: str) -> Messages:
    for number, turn in enumerate(turns):
        if not (isinstance(turn, Mapping) and isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str)):
            raise DataError(f"{place}: message {number} must have a text 'role' and 'content', got {turn!r}")
    chat = [{"role": turn["role"], "content": turn["content"]} for turn in turns]
    if chat[-1]["role"] == "assistant":
        raise DataError(f"{place}: the chat ends with the assistant's turn; the policy is to write that one")
    if not chat[-1]["content"].strip():
        raise DataError(f"{place}: the last message is empty")
    return chat


def bare_text(prompt: str | Messages) -> str:
    """What an oracle is shown: a text as it is, a single question bare, a longer chat with ``role: `` before each turn."""
    if isinstance(prompt, str):
        return prompt
    if len(prompt) == 1:
        return prompt[0]["content"]
    return "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in prompt)


def policy_text(prompt: str | Messages, config: DataConfig, tokenizer: Any, place: str) -> str:
    """What the policy is given, as text: the chat template applied up to where the answer begins, or the plain text.

    Raises:
        ConfigError: there is no chat template, or the template refuses the chat.
        DataError: chat messages, with the template switched off.
    """
    if not config.chat_template:
        if not isinstance(prompt, str):
            raise DataError(f"{place}: chat messages need a chat template; set data.chat_template=true, or give plain text")
        return prompt
    import jinja2

    if not tokenizer.chat_template:
        raise ConfigError("data.chat_template: the tokenizer has none; set data.chat_template=false for a model that continues plain text")
    chat = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    try:
        return str(tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True))
    except jinja2.TemplateError as error:
        raise DataError(f"{place}: the tokenizer's chat template refuses this chat: {error}") from error


def tokenize(texts: Sequence[str], config: DataConfig, tokenizer: Any) -> list[list[int]]:
    """Token ids of texts from ``policy_text``: a template writes its own special tokens, plain text gets the tokenizer's."""
    if not texts:
        return []
    ids: list[list[int]] = tokenizer(list(texts), add_special_tokens=not config.chat_template)["input_ids"]
    return ids
