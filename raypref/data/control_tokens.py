"""Control tokens that are spelt out in a text: found, and read as plain text.

A control token is a special token of the tokenizer, or an end token: ``<|im_end|>``, ``</s>``. A special token that is an ordinary word
or sign (``!`` as padding) does not count. Written by the chat template, a control token steers the policy. Written by a user it is text:
were it read as a token, a prompt could end its turn and begin another one. Other added tokens (``<think>``, ``<tool_call>``) are what the
policy itself writes as text, so they stay what the tokenizer makes of them.

    content --hide--> content with marks --template--> text with marks --encode--> token ids

A text without marks is tokenised by the tokenizer as ever, so its ids are those of ``apply_chat_template``. A text with marks is
tokenised by a copy of the tokenizer in which the template's control tokens have other names, and their old names are text.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from typing import Any

_NONCE = secrets.token_hex(8)
"""Drawn for this process, so that no text of a user can contain it."""
_MARK = re.compile(rf"{_NONCE}m(\d+)x")
_BREAK = f"{_NONCE}b"


class ControlTokens:
    """The control tokens of one tokenizer."""

    def __init__(self, tokenizer: Any, end_token_ids: Sequence[int]) -> None:
        """
        Args:
            tokenizer: the policy's.
            end_token_ids: the tokens that end an answer.
        """
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder
        control = [(int(k), token) for k, token in added.items() if (token.special or k in end_token_ids) and _names_control(token.content)]
        self._tokens = {token.content: (k, token) for k, token in control}
        self._names = sorted(self._tokens, key=len, reverse=True)
        self._pattern = _any_of(self._names)
        ends = [name for name in self._names if self._tokens[name][0] in end_token_ids]
        self._end = _any_of(ends)
        self._ends_text = re.compile(rf"(?:{self._end.pattern})\s*\Z")
        self._backend: Any = None

    def spelt(self, text: str) -> str | None:
        """The first control token that a text spells out."""
        match = self._pattern.search(text)
        return None if match is None else match.group()

    def end_in(self, text: str) -> str | None:
        """The first end token that a text spells out."""
        match = self._end.search(text)
        return None if match is None else match.group()

    def without_end(self, text: str) -> str:
        """The text without the end tokens at its end, and without the space behind them."""
        while (match := self._ends_text.search(text)) is not None:
            text = text[: match.start()]
        return text

    def hide(self, text: str) -> str:
        """The text with a mark in place of each control token."""
        return self._pattern.sub(lambda match: f"{_NONCE}m{self._names.index(match.group())}x", text)

    def shown(self, text: str) -> str:
        """The text with its control tokens in place of the marks."""
        return _MARK.sub(lambda match: self._names[int(match.group(1))], text)

    @staticmethod
    def hidden_in(text: str) -> bool:
        """Whether the text has marks."""
        return _NONCE in text

    def encode(self, text: str) -> list[int]:
        """Token ids of a text with marks, without what the tokenizer puts around a text."""
        if not self._tokenizer.is_fast:
            return self._encode_parts(text)
        if self._backend is None:
            self._backend = self._copy()
        renamed = self._pattern.sub(lambda match: _alias(self._names.index(match.group())), text)
        ids = self._renumbered(self.shown(renamed))
        control = {k for k, _ in self._tokens.values()} - {self._tokenizer.unk_token_id}
        if control.isdisjoint(ids):
            return self._real(ids)
        # The vocabulary itself has the name as one piece (Unigram, WordLevel): it is cut in two.
        cut = _MARK.sub(lambda match: _cut(self._names[int(match.group(1))]), renamed)
        return self._real(self._renumbered(cut))

    def _renumbered(self, text: str) -> list[int]:
        ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        return ids

    def _real(self, ids: Sequence[int]) -> list[int]:
        return [known for k in ids if (known := self._ids.get(k, k)) is not None]

    def _copy(self) -> Any:
        """A copy of the tokenizer's backend that reads control tokens as text and their aliases as tokens."""
        from tokenizers import AddedToken, Tokenizer

        backend = Tokenizer.from_str(self._tokenizer.backend_tokenizer.to_str())
        backend.no_truncation()
        backend.no_padding()
        backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in self._names])
        aliases = [_alike(_alias(k), self._tokens[name][1]) for k, name in enumerate(self._names)]
        backend.add_tokens([*aliases, AddedToken(_BREAK, special=False, normalized=False)])
        backend.encode_special_tokens = True
        numbers = {str(name): int(k) for name, k in backend.get_vocab(with_added_tokens=True).items() if _NONCE in name}
        self._ids: dict[int, int | None] = {numbers[_alias(k)]: self._tokens[name][0] for k, name in enumerate(self._names)}
        self._ids[numbers[_BREAK]] = None
        return backend

    def _encode_parts(self, text: str) -> list[int]:
        """Part by part, for a tokenizer without a backend that can be copied."""
        ids: list[int] = []
        for part in re.split(f"({self._pattern.pattern})", text):
            if part in self._tokens:
                ids.append(self._tokens[part][0])
            elif part:
                ids += self._tokenizer(self.shown(part), add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return ids


def _names_control(content: str) -> bool:
    """Whether a special token's content is a name, as ``</s>`` and ``[PAD]`` are, and not a word or a sign that texts have anyway."""
    return len(content) > 2 and any(map(str.isalnum, content)) and not all(map(str.isalnum, content))


def _any_of(names: Sequence[str]) -> re.Pattern[str]:
    """Matches any of the names, the longest first; nothing where there is none."""
    return re.compile("|".join(map(re.escape, names)) or r"(?!)")


def _alias(number: int) -> str:
    return f"{_NONCE}a{number}x"


def _cut(name: str) -> str:
    return name[:1] + _BREAK + name[1:]


def _alike(name: str, token: Any) -> Any:
    """An added token that treats the text around it as ``token`` does."""
    from tokenizers import AddedToken

    return AddedToken(name, special=False, normalized=False, lstrip=token.lstrip, rstrip=token.rstrip, single_word=False)
