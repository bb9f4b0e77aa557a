"""What makes two prompts the same prompt: the turns that are asked, or an id that the data gives; never the number of a row."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias, TypeVar

from raypref.errors import DataError
from raypref.types import Prompt

T = TypeVar("T")
logger = logging.getLogger(__name__)

Turns: TypeAlias = tuple[tuple[str, str], ...]
"""(role, content) of each turn."""

_NOTHING: Turns = (("user", ""),)
"""The empty prompt, for texts from nothing: it may be trained on and held out, since there is nothing of it to be known."""


def turns_of_prompt(text: str, chat: Turns = ()) -> Turns:
    """The turns of a chat; a plain text is one turn of the user (as in ``raypref.oracles.base.Question``).

    Args:
        text: of the prompt.
        chat: its turns where it is a chat.
    """
    return chat or (("user", text),)


def content_id(text: str, chat: Turns = ()) -> str:
    """32 hexadecimal digits that depend on the prompt's turns alone, not on the file or row that holds them.

    Args:
        text: of the prompt.
        chat: its turns where it is a chat.
    """
    return hashlib.blake2b(as_bytes(turns_of_prompt(text, chat)), digest_size=16).hexdigest()


def as_bytes(turns: Turns) -> bytes:
    """An unambiguous encoding: different turns give different bytes. Each text follows its length in characters."""
    return "".join(f"{len(part)}:{part}" for turn in turns for part in turn).encode("utf-8", "surrogatepass")


def differ(prompts: Iterable[Prompt]) -> bool:
    """Whether at least two of the prompts are not the same."""
    turns = map(turns_of, prompts)
    first = next(turns, None)
    return any(other != first for other in turns)


def turns_of(prompt: Prompt) -> Turns:
    """The turns of a prompt."""
    return turns_of_prompt(prompt.text, prompt.chat)


def without_held_out(items: Sequence[T], held_out: Iterable[Prompt], turns: Callable[[T], Turns]) -> list[T]:
    """The items to train on: those whose prompt is not held out for evaluation. The number of the others is logged.

    Args:
        items: prompts, or records with a prompt.
        held_out: from a file of their own, from objects, or set apart from the same data, in which a prompt may occur twice.
        turns: what an item asks.

    Raises:
        DataError: every item has a prompt that is held out.
    """
    apart = {turns_of(prompt) for prompt in held_out} - {_NOTHING}
    kept = [item for item in items if turns(item) not in apart] if apart else list(items)
    if items and not kept:
        raise DataError(
            f"data.held_out: every one of the {len(items)} training prompts is held out for evaluation, too; nothing is left to train on; "
            "hold out other prompts, or fewer (data.held_out_prompts, evaluation.texts)"
        )
    if len(kept) < len(items):
        logger.warning(
            "%d of %d training records are left out: their prompts are held out for evaluation, and are never trained on",
            len(items) - len(kept),
            len(items),
        )
    return kept
