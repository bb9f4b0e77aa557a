"""The tokenizer's chat template: chats as the text that the policy reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from raypref.data.chats import Chat
from raypref.data.control_tokens import ControlTokens
from raypref.errors import ConfigError, DataError

PROBE = "rayprefprobe"
"""An answer that no template writes: what stands before and behind it is the template's."""


@dataclass(frozen=True, slots=True)
class AssistantTurn:
    """What a template writes around an answer, behind the generation prompt."""

    before: str
    """Empty for most; the assistant's header where the template has no generation prompt, or an empty thought (Qwen3)."""
    after: str
    """The token that ends the turn, and often a newline."""
    asks: bool
    """Whether the template writes the next generation prompt at the end of ``after``, unasked."""


def render(tokenizer: Any, chats: Sequence[Chat], place: str, *, generation_prompt: bool) -> list[str]:
    """Each chat as text.

    Args:
        tokenizer: the policy's.
        chats: at least one; all offer the same tools.
        place: of the record, for messages.
        generation_prompt: whether the assistant's turn is begun, so that the policy continues with its answer.

    Raises:
        ConfigError: the tokenizer has no chat template.
        DataError: the template refuses a chat.
    """
    import jinja2

    if not tokenizer.chat_template:
        raise ConfigError("data.chat_template: the tokenizer has none; set data.chat_template=false for a model that continues plain text")
    turns = [[dict(turn) for turn in chat] for chat in chats]
    tools = [dict(tool) for tool in chats[0].tools]
    try:
        return list(tokenizer.apply_chat_template(turns, tools=tools or None, tokenize=False, add_generation_prompt=generation_prompt))
    except (jinja2.TemplateError, TypeError, ValueError, KeyError) as error:
        raise DataError(f"{place}: the tokenizer's chat template refuses this chat: {error}") from error


def assistant_turn(tokenizer: Any, chat: Chat | None = None) -> AssistantTurn | None:
    """How the template writes an answer to ``chat``, by default to a single question.

    None without a template, or where it does not write the answer behind the prompt that it writes for the chat.
    """
    chat = chat or Chat.of([("user", "?")])
    try:
        (prompt,) = render(tokenizer, [chat], "", generation_prompt=True)
        (whole,) = render(tokenizer, [chat.followed_by({"role": "assistant", "content": PROBE})], "", generation_prompt=False)
    except (ConfigError, DataError):
        return None
    before, probe, after = whole.removeprefix(prompt).rpartition(PROBE)
    if not probe or not whole.startswith(prompt):
        return None
    return AssistantTurn(before, after, asks=bool(after.strip()) and prompt.endswith(after) and not before.strip())


def written_response(
    tokenizer: Any, control: ControlTokens, chat: Chat, prompt: str, answer: str, whole: str, place: str
) -> tuple[str, bool]:
    """What the template writes for an answer behind the prompt, up to its first end token; and whether it writes one.

    Args:
        tokenizer: the policy's.
        control: its control tokens.
        chat: what is answered.
        prompt: the text of ``chat`` with the generation prompt.
        answer: the assistant's content.
        whole: the text of ``chat`` with the answer.
        place: of the record, for messages.

    Raises:
        DataError: the whole does not begin with the prompt, or the template leaves a part of the answer out.
    """
    if not whole.startswith(prompt):
        shown = [control.shown(text) for text in (prompt[-80:], whole[-80 - len(answer) :])]
        raise DataError(
            f"{place}: the chat template does not write this answer behind the prompt, so the policy would never write it so: the prompt "
            f"ends {shown[0]!r}, the chat with the answer {shown[1]!r}; give an answer that fits (with its thought, for a template that "
            f"begins one), or set data.chat_template=false and give rendered text"
        )
    behind = whole[len(prompt) :]
    end = control.end_in(behind)
    response = _without_closing(tokenizer, chat, behind, place) if end is None else behind[: behind.index(end) + len(end)]
    if answer.strip() not in response and "".join(answer.split()) not in "".join(response.split()):
        shown = [control.shown(text) for text in (answer[:200], behind[:200])]
        raise DataError(
            f"{place}: the chat template leaves a part of this answer out, or ends before it: the answer is {shown[0]!r}, the template "
            f"writes {shown[1]!r}; leave that part out of the data, or set data.chat_template=false and give rendered text"
        )
    return response, end is not None


def _without_closing(tokenizer: Any, chat: Chat, behind: str, place: str) -> str:
    """An answer without what the template writes behind it."""
    turn = assistant_turn(tokenizer, chat)
    if turn is None or not behind.endswith(turn.after):
        raise DataError(f"{place}: the chat template writes no end token behind this answer, and it cannot be seen where the answer ends")
    return behind.removesuffix(turn.after)
