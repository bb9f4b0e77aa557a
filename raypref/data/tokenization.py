"""Where text becomes token ids: the policy's view of a prompt, and given answers.

prompt (text or chat) --policy_text--> text --tokenize--> token ids
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from raypref.data.chats import Chat, unwritten
from raypref.data.config import DataConfig
from raypref.errors import ConfigError, DataError


def policy_text(prompt: str | Chat, config: DataConfig, tokenizer: Any, place: str) -> str:
    """The text that the policy is given: the chat template applied up to where the answer begins, or the plain text.

    Raises:
        ConfigError: there is no chat template.
        DataError: the template refuses the chat, or leaves a part of it out; or the prompt is a chat and ``data.chat_template`` is off.
    """
    if not config.chat_template:
        if not isinstance(prompt, str):
            raise DataError(f"{place}: chat messages need a chat template; set data.chat_template=true, or give plain text")
        return prompt
    if not tokenizer.chat_template:
        raise ConfigError("data.chat_template: the tokenizer has none; set data.chat_template=false for a model that continues plain text")
    chat = Chat.of([("user", prompt)]) if isinstance(prompt, str) else prompt

    def render(shown: Chat) -> str:
        return _rendered(shown, tokenizer, place)

    text = render(chat)
    if (missing := unwritten(chat, text, render)) is not None:
        raise DataError(
            f"{place}: the tokenizer's chat template does not write {missing}; leave it out of the data, or give another template"
        )
    return text


def _rendered(chat: Chat, tokenizer: Any, place: str) -> str:
    import jinja2

    turns, tools = [dict(turn) for turn in chat], [dict(tool) for tool in chat.tools]
    try:
        return str(tokenizer.apply_chat_template(turns, tools=tools or None, tokenize=False, add_generation_prompt=True))
    except (jinja2.TemplateError, TypeError, ValueError, KeyError) as error:
        raise DataError(f"{place}: the tokenizer's chat template refuses this chat: {error}") from error


def tokenize(texts: Sequence[str], config: DataConfig, tokenizer: Any) -> list[list[int]]:
    """Token ids of texts from ``policy_text``. A chat template writes its own special tokens; plain text gets the tokenizer's."""
    if not texts:
        return []
    ids: list[list[int]] = tokenizer(list(texts), add_special_tokens=not config.chat_template)["input_ids"]
    return ids


def tokenize_answers(
    prompts: Sequence[str], answers: Sequence[str], config: DataConfig, tokenizer: Any, end_token_id: int
) -> list[tuple[list[int], list[int]]]:
    """(prompt ids, answer ids) for each prompt and its answer; an answer ends with the end token.

    An answer's ids are those that follow the prompt's in the tokens of both texts together, as the policy itself would continue the
    prompt. Where prompt and answer merge into one token, the answer is tokenised alone.
    """
    alone = tokenize(prompts, config, tokenizer)
    whole = tokenize([prompt + answer for prompt, answer in zip(prompts, answers, strict=True)], config, tokenizer)
    pairs = []
    for prompt, both, answer in zip(alone, whole, answers, strict=True):
        fits = both[: len(prompt)] == prompt and len(both) > len(prompt)
        ids = both[len(prompt) :] if fits else tokenizer(answer, add_special_tokens=False)["input_ids"]
        pairs.append((prompt, ids if ids[-1] == end_token_id else [*ids, end_token_id]))
    return pairs
