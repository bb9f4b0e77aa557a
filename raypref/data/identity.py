"""What makes two prompts the same prompt: the turns that are asked, or an id that the data gives; never the number of a row."""

from __future__ import annotations

import hashlib
import json
from typing import TypeAlias

Turns: TypeAlias = tuple[tuple[str, str], ...]
"""(role, content) of each turn."""


def turns_of_prompt(text: str, chat: Turns = ()) -> Turns:
    """The turns of a chat; a plain text is one turn of the user (as in ``raypref.oracles.base.Question``).

    Args:
        text: of the prompt.
        chat: its turns where it is a chat.
    """
    return chat or (("user", text),)


def content_id(text: str, chat: Turns = ()) -> str:
    """32 hexadecimal digits that follow from the prompt's turns alone: equal for equal turns, whatever file or row they stand in.

    Args:
        text: of the prompt.
        chat: its turns where it is a chat.
    """
    turns = json.dumps(turns_of_prompt(text, chat))
    return hashlib.blake2b(turns.encode(), digest_size=16).hexdigest()
