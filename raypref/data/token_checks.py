"""Checks of token ids before anything starts, and the counts of records that are left out.

An id beyond the model's embedding ends in an ``IndexError`` or a device-side assert of some actor, long after the data was read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from raypref.data.chats import shortened
from raypref.data.config import DataConfig
from raypref.data.policy_facts import PolicyFacts
from raypref.errors import DataError

T = TypeVar("T")

_LETTER_OR_DIGIT = re.compile(r"[^\W_]")
BLOCK = 1000
"""Records that are read and tokenised at once. What a tokenizer returns in addition to the ids takes much memory."""


@dataclass(slots=True)
class LeftOut:
    """How many records were left out for one reason, and the first one."""

    count: int = 0
    first: str = ""
    """Its place, with the number that is too large if there is one."""

    def add(self, place: str) -> None:
        self.count += 1
        self.first = self.first or place

    def __str__(self) -> str:
        return f"{self.count} (the first: {self.first})" if self.count else "0"


def blocks(items: Iterable[T]) -> Iterator[list[T]]:
    """The items in lists of ``BLOCK``; the last one may be shorter."""
    iterator = iter(items)
    while block := list(islice(iterator, BLOCK)):
        yield block


def check_ids(ids: NDArray[np.int32], facts: PolicyFacts, place: str, what: str) -> None:
    """Refuse ids that the model has no embedding for.

    Args:
        ids: (T,)
        facts: the tokenizer and the model's vocabulary.
        place: of the record.
        what: prompt or answer.

    Raises:
        DataError: there is such an id.
    """
    if facts.vocabulary is None or not len(ids) or (highest := int(ids.max())) < facts.vocabulary:
        return
    token = facts.tokenizer.convert_ids_to_tokens(highest)
    raise DataError(
        f"{place}: the {what} has the token {token!r} (id {highest}), but the model has {facts.vocabulary} tokens; policy.tokenizer does "
        f"not fit policy.path: give the model's own tokenizer, or a model whose embedding was resized"
    )


def check_end(ids: NDArray[np.int32], facts: PolicyFacts, place: str) -> None:
    """Refuse an answer in which an end token is not the last one: an end token may be an ordinary word, or a newline.

    Args:
        ids: (T,) a response with its end token.
        facts: the policy's end tokens.
        place: of the record.

    Raises:
        DataError: there is an end token before the last one.
    """
    inside = np.flatnonzero(np.isin(ids[:-1], facts.end_token_ids))
    if len(inside):
        token = facts.tokenizer.convert_ids_to_tokens(int(ids[inside[0]]))
        raise DataError(
            f"{place}: token {inside[0]} of the answer's {len(ids)} is the end token {token!r}; the policy would have stopped there; leave "
            f"the record out, or correct eos_token_id in the policy's generation_config.json"
        )


def check_text(text: str, facts: PolicyFacts, place: str, what: str) -> None:
    """Refuse a text from which the tokenizer makes no token (zero-width spaces, for example).

    Only a text without any letter or digit is checked, since the check calls the tokenizer.

    Raises:
        DataError: it makes none.
    """
    if not text or _LETTER_OR_DIGIT.search(text):  # whether there may be an empty text was decided before
        return
    if not facts.tokenizer(text, add_special_tokens=False)["input_ids"]:
        raise DataError(f"{place}: the tokenizer makes no token from the {what} {shortened(text)}; reword it, or leave the record out")


def check_length(tokens: int, limit: int, config: DataConfig, place: str, message: str) -> bool:
    """Whether a sequence fits.

    Args:
        tokens: its length.
        limit: the largest length.
        config: with ``overlong: refuse``, one that does not fit is refused.
        place: of the record.
        message: what is too long, and what to do.

    Raises:
        DataError: it does not fit, and is to be refused.
    """
    if tokens > limit and config.overlong == "refuse":
        raise DataError(f"{place}: {message}, or set data.overlong=drop")
    return tokens <= limit
