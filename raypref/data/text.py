"""A record's prompt: what the oracle is shown, and what the policy is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from raypref.data.config import DataConfig
from raypref.data.records import Record
from raypref.data.templates import Messages, template_of
from raypref.errors import ConfigError, DataError


def prompt_of(record: Record, config: DataConfig) -> str | Messages:
    """The prompt of a record, a text or a chat, checked. A record without one is composed by ``data.template`` where it has the fields.

    Raises:
        DataError: it is missing, empty, or neither a text nor a chat that ends with the user's turn.
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
    """Whether the record has a prompt, or the fields that ``data.template`` composes one of."""
    return record.values.get(config.prompt_field) is not None or _composed(record, config) is not None


def _composed(record: Record, config: DataConfig) -> str | None:
    if config.template is None or record.values.get(config.prompt_field) is not None:
        return None
    return template_of(config.template).compose(record.values)


def field_of(record: Record, name: str, key: str) -> Any:
    """A field's value.

    Raises:
        DataError: naming the fields that are there, and the config key that chooses another.
    """
    if record.values.get(name) is None:
        raise DataError(f"{record.place}: no field {name!r}; fields here: {', '.join(map(str, record.values))}; see {key}")
    return record.values[name]


def turns_of(turns: Sequence[Any], place: str) -> Messages:
    """Chat messages, checked: each has a text 'role' and 'content'; other keys are left out.

    Raises:
        DataError: naming the message.
    """
    for number, turn in enumerate(turns):
        if not (isinstance(turn, Mapping) and isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str)):
            raise DataError(f"{place}: message {number} must have a text 'role' and 'content', got {turn!r}")
    return [{"role": turn["role"], "content": turn["content"]} for turn in turns]


def prompt_chat(turns: Sequence[Any], place: str) -> Messages:
    """A chat that the policy is to answer.

    Raises:
        DataError: a message is malformed, the last one is empty, or it is the assistant's already.
    """
    chat = turns_of(turns, place)
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


def chat_of(prompt: str | Messages) -> tuple[tuple[str, str], ...]:
    """(role, content) of a chat's turns; empty for a text."""
    return () if isinstance(prompt, str) else tuple((turn["role"], turn["content"]) for turn in prompt)


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


def tokenize_answers(
    prompts: Sequence[str], answers: Sequence[str], config: DataConfig, tokenizer: Any, end_token_id: int
) -> list[tuple[list[int], list[int]]]:
    """Prompt and answer ids; an answer ends with the end token.

    The answer is cut out of the tokens of the whole text, so that it begins as the policy itself would go on; where the two merge into
    one token, it is tokenised alone.
    """
    alone = tokenize(prompts, config, tokenizer)
    whole = tokenize([prompt + answer for prompt, answer in zip(prompts, answers, strict=True)], config, tokenizer)
    pairs = []
    for prompt, both, answer in zip(alone, whole, answers, strict=True):
        fits = both[: len(prompt)] == prompt and len(both) > len(prompt)
        ids = both[len(prompt) :] if fits else tokenizer(answer, add_special_tokens=False)["input_ids"]
        pairs.append((prompt, ids if ids[-1] == end_token_id else [*ids, end_token_id]))
    return pairs
