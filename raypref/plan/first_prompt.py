"""The first prompt of a run as the policy will see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from raypref.types import Example, RunData


@dataclass(frozen=True, slots=True)
class FirstPrompt:
    """Token by token, so that what a chat template or a tokenizer adds is seen."""

    id: str
    tokens: int
    pieces: tuple[tuple[str, bool], ...]
    """Texts, one after another, and whether each is a control token."""

    @classmethod
    def of(cls, data: RunData, tokenizer: Any) -> Self | None:
        """The first item's prompt in the order in which the run takes them; None without data."""
        if not data.items:
            return None
        item = data.items[0]
        ids, name = (item.prompt_ids[0], item.prompt_id) if isinstance(item, Example) else (item.token_ids, item.id)
        control = set(tokenizer.all_special_ids) | {
            number for number, token in getattr(tokenizer, "added_tokens_decoder", {}).items() if token.special
        }
        pieces: list[tuple[str, bool]] = []
        plain: list[int] = []

        def end_text() -> None:
            if plain:
                pieces.append((tokenizer.decode(plain, skip_special_tokens=False, clean_up_tokenization_spaces=False), False))
                plain.clear()

        for token in ids.tolist():
            if token in control:
                end_text()
                pieces.append((tokenizer.convert_ids_to_tokens(token), True))
            else:
                plain.append(token)
        end_text()
        return cls(name, len(ids), tuple(pieces))

    @property
    def text(self) -> str:
        """All of it, control tokens as they are written."""
        return "".join(text for text, _ in self.pieces)
