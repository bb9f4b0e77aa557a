"""Sets of responses to the same prompts, side by side.

Prompts are the same if their turns are: the same text after another system turn or another history is another prompt. A row's place in
its file never counts. Ids count where no text can, or where the caller says so.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from raypref.data.identity import Turns, content_id
from raypref.errors import DataError
from raypref.evaluation.response_files import ResponseSet
from raypref.evaluation.response_formats import Answers
from raypref.types import FinishReason, Prompt, Response, Rollout

By = Literal["id", "text"]
Unit = Literal["tokens", "characters"]
ByKey = Mapping[tuple[Hashable, int], Answers]
"""(id or turns, how often it occurred before in the file) -> the answers."""

logger = logging.getLogger(__name__)

_NO_IDS = np.zeros(0, dtype=np.int32)
_NO_LOGPROBS = np.zeros(0, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Matched:
    """M sets with responses to the same N prompts."""

    names: tuple[str, ...]
    """(M,)"""
    prompts: tuple[Prompt, ...]
    """(N,) in the first set's order; without token ids."""
    answers: tuple[tuple[Answers, ...], ...]
    """(M, N)"""
    unmatched: tuple[int, ...]
    """(M,) prompts of each set that are not in all the others; they are left out."""

    @property
    def unit(self) -> Unit:
        """Unit of the lengths: tokens where every file counts them, otherwise characters."""
        return "tokens" if all(answers.tokens is not None for row in self.answers for answers in row) else "characters"

    @property
    def lengths(self) -> NDArray[np.float64]:
        """(M, N) mean length of a set's responses to a prompt, in ``unit``."""
        unit = self.unit
        return np.array([[np.mean(_lengths(answers, unit)) for answers in row] for row in self.answers])

    def each_length(self, place: int) -> list[list[int]]:
        """(N, K) length of each of a set's responses, in ``unit``; K may differ from prompt to prompt."""
        unit = self.unit
        return [list(_lengths(answers, unit)) for answers in self.answers[place]]

    def place(self, name: str) -> int:
        """Index of the set of that name.

        Raises:
            DataError: there is none.
        """
        if name not in self.names:
            raise DataError(f"no set of responses named {name!r}; there are {', '.join(self.names)}")
        return self.names.index(name)

    def rollout(self, place: int, number: int) -> Rollout:
        """A set's responses to a prompt, as an oracle role compares them."""
        answers = self.answers[place][number]
        return text_rollout(self.prompts[number], answers.responses, answers.finish_reasons)


def text_prompt(index: int, name: str, text: str, chat: Turns = ()) -> Prompt:
    """A prompt that an oracle is shown and no policy is given: it has no token ids."""
    return Prompt(index, name, text, _NO_IDS, chat)


def text_rollout(prompt: Prompt, responses: Sequence[str], reasons: Sequence[FinishReason] | None = None) -> Rollout:
    """Given responses as an oracle role compares them: texts without token ids and without a policy version.

    Args:
        reasons: why each response ended; default: the policy ended it.
    """
    reasons = reasons or ["stop"] * len(responses)
    pairs = zip(responses, reasons, strict=True)
    return Rollout(prompt, tuple(Response(_NO_IDS, _NO_LOGPROBS, text, reason) for text, reason in pairs), None)


def match(sets: Sequence[ResponseSet], *, by: By | None = None, partial: bool = False) -> Matched:
    """Find the prompts that all sets answer.

    Args:
        sets: (M,) at least one, with different names.
        by: whether prompts are the same if their ids are, or if their texts (all turns of a chat) are; default: the texts, or the ids where
            a file names its prompts by id alone and no id is a whole number, which could be the number of a row. Where a text occurs
            several times in a file, the first is matched with the first of the other files, the second with the second, and so on.
        partial: leave out the prompts that are not in every set, and count them; otherwise they are refused.

    Raises:
        DataError: two sets have the same name; a prompt is not in every set; an id stands for different prompts; a set has no ids, or no
            texts, to match by; no file has a prompt's text.
    """
    names = tuple(answered.name for answered in sets)
    if len(set(names)) < len(names):
        raise DataError(f"sets of responses must have different names, got {', '.join(names)}")
    by = by or _default(sets)
    keyed = [_keyed(answered, by) for answered in sets]
    common = [key for key in keyed[0] if all(key in by_key for by_key in keyed)]
    unmatched = tuple(len(by_key) - len(common) for by_key in keyed)
    if not common or (any(unmatched) and not partial):
        raise DataError(_missing(names, keyed, len(common)))
    if repeated := sum(occurrence > 0 for _, occurrence in common):
        logger.warning("%d prompts occur earlier in the same file: the n-th of a file is matched with the n-th of the others", repeated)
    answers = tuple(tuple(by_key[key] for key in common) for by_key in keyed)
    prompts = tuple(_prompt(number, [row[number] for row in answers]) for number in range(len(common)))
    return Matched(names, prompts, answers, unmatched)


def _default(sets: Sequence[ResponseSet]) -> By:
    """By text if every record has one; otherwise by id, unless ids may be numbers of rows."""
    every = [answers for answered in sets for answers in answered.answers]
    bare = next((answers for answers in every if answers.prompt is None), None)
    if bare is None or (len(sets) > 1 and any(answers.id is None for answers in every)):
        return "text"  # in the second case refused, with the place of the record that has no text
    if len(sets) == 1:
        return "id"
    numbered = next((answers for answers in every if str(answers.id).isdecimal()), None)
    if numbered is not None:
        raise DataError(
            f"{bare.place}: the file names this prompt by its id {bare.id!r} alone, and whole numbers such as {numbered.id!r} "
            f"({numbered.place}) may count rows; give the prompts of that file (--questions FILE), or, if the ids name the same prompts in "
            f"all files, say so (--match id)"
        )
    return "id"


def _keyed(answered: ResponseSet, by: By) -> ByKey:
    seen: Counter[Hashable] = Counter()
    by_key: dict[tuple[Hashable, int], Answers] = {}
    for answers in answered.answers:
        key: Hashable = answers.id if by == "id" else answers.turns
        if key is None and by == "id":
            raise DataError(f"{answers.place}: no id to match by; match by text (--match text)")
        if key is None:
            raise DataError(
                f"{answers.place}: the file has the id {answers.id!r} but no prompt to match by; give the file with the questions "
                f"(--questions FILE)"
            )
        by_key[key, seen[key]] = answers
        seen[key] += 1
    return by_key


def _missing(names: Sequence[str], keyed: Sequence[ByKey], common: int) -> str:
    """How many prompts of each set are not in all sets, where the first of them is, and what looks like it."""
    counts = ", ".join(f"{len(by_key) - common} of {len(by_key)} in {name!r}" for name, by_key in zip(names, keyed, strict=True))
    first = next(answers for by_key in keyed for key, answers in by_key.items() if not all(key in other for other in keyed))
    remedy = "no prompt is in all of them" if not common else f"--partial compares the {common} that are in all of them"
    alike = next((other for by_key in keyed for other in by_key.values() if _looks_like(first, other)), None)
    hint = "" if alike is None else f"; {_difference(first, alike)}"
    return f"{first.place}: this prompt is not in all sets of responses; the same holds for {counts}; {remedy}{hint}"


def _looks_like(first: Answers, other: Answers) -> bool:
    """Whether two prompts that differ have the same id or the same text."""
    same = (first.id is not None and first.id == other.id) or (first.prompt is not None and first.prompt == other.prompt)
    return same and first.turns is not None and other.turns is not None and first.turns != other.turns


def _difference(first: Answers, other: Answers) -> str:
    if first.prompt == other.prompt:
        return f"{other.place} has the same text as other turns of a chat; if that is the same prompt, match by id (--match id)"
    return f"id {other.id!r} stands for another prompt in {other.place}"


def _prompt(number: int, answers: Sequence[Answers]) -> Prompt:
    """The prompt of answers that belong together."""
    known = [one for one in answers if one.prompt is not None]
    if not known:
        raise DataError(
            f"{answers[0].place}: no file has the prompt of id {answers[0].id!r}; give the file with the questions (--questions FILE)"
        )
    first = next((one for one in known if one.chat), known[0])
    for other in known:
        if other.prompt != first.prompt or (other.chat and other.turns != first.turns):
            raise DataError(f"{other.place}: id {other.id!r} stands for another prompt than in {first.place}; match by text (--match text)")
    assert first.prompt is not None
    name = next((one.id for one in answers if one.id is not None), None)
    return text_prompt(number, name or content_id(first.prompt, first.chat), first.prompt, first.chat)


def _lengths(answers: Answers, unit: Unit) -> Sequence[int]:
    if unit == "tokens":
        assert answers.tokens is not None
        return answers.tokens
    return [len(text) for text in answers.responses]
