"""Sets of responses to the same prompts, side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from raypref.errors import DataError
from raypref.evaluation.response_files import ResponseSet
from raypref.evaluation.response_formats import Answers
from raypref.types import FinishReason, Prompt, Response, Rollout

By = Literal["id", "text"]
Unit = Literal["tokens", "characters"]

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


def text_prompt(index: int, name: str, text: str, chat: tuple[tuple[str, str], ...] = ()) -> Prompt:
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
        by: whether prompts are the same if their ids are, or if their texts are; default: the ids where every set has them and some are
            common to all, otherwise the texts. Where a text occurs several times, the first is matched with the first, and so on.
        partial: leave out the prompts that are not in every set, and count them; otherwise they are refused.

    Raises:
        DataError: two sets have the same name; a prompt is not in every set; an id stands for different texts; a set has no ids, or no
            texts, to match by; no file has a prompt's text.
    """
    names = tuple(answered.name for answered in sets)
    if len(set(names)) < len(names):
        raise DataError(f"sets of responses must have different names, got {', '.join(names)}")
    keyed = [_keyed(answered, "id") for answered in sets] if by != "text" and _all_named(sets) else None
    if keyed is None or (by is None and not set.intersection(*map(set, keyed))):
        if by == "id":
            raise DataError(f"{_nameless(sets)}: no id to match by; match by text")
        keyed = [_keyed(answered, "text") for answered in sets]
    common = [key for key in keyed[0] if all(key in by_key for by_key in keyed)]
    unmatched = tuple(len(by_key) - len(common) for by_key in keyed)
    if not common or (any(unmatched) and not partial):
        raise DataError(_missing(names, keyed, len(common)))
    answers = tuple(tuple(by_key[key] for key in common) for by_key in keyed)
    prompts = tuple(_prompt(number, [row[number] for row in answers]) for number in range(len(common)))
    return Matched(names, prompts, answers, unmatched)


def _all_named(sets: Sequence[ResponseSet]) -> bool:
    return all(answers.id is not None for answered in sets for answers in answered.answers)


def _nameless(sets: Sequence[ResponseSet]) -> str:
    """Place of the first record without an id."""
    return next(answers.place for answered in sets for answers in answered.answers if answers.id is None)


def _keyed(answered: ResponseSet, by: By) -> Mapping[tuple[str, int], Answers]:
    """(id or text, how often it occurred before) -> the answers."""
    seen: Counter[str] = Counter()
    by_key = {}
    for answers in answered.answers:
        key = answers.id if by == "id" else answers.prompt
        if key is None:
            raise DataError(
                f"{answers.place}: the file has the id {answers.id!r} but no prompt to match by; give the file with the questions"
            )
        by_key[key, seen[key]] = answers
        seen[key] += 1
    return by_key


def _missing(names: Sequence[str], keyed: Sequence[Mapping[tuple[str, int], Answers]], common: int) -> str:
    """How many prompts of each set are not in all sets, and where the first of them is."""
    counts = ", ".join(f"{len(by_key) - common} of {len(by_key)} in {name!r}" for name, by_key in zip(names, keyed, strict=True))
    first = next(answers.place for by_key in keyed for key, answers in by_key.items() if not all(key in other for other in keyed))
    remedy = "no prompt is in all of them" if not common else f"allow a partial match to compare the {common} that are in all of them"
    return f"{first}: this prompt is not in all sets of responses; the same holds for {counts}; {remedy}"


def _prompt(number: int, answers: Sequence[Answers]) -> Prompt:
    """The prompt of answers that belong together."""
    known = [one for one in answers if one.prompt is not None]
    if not known:
        raise DataError(f"{answers[0].place}: no file has the prompt of id {answers[0].id!r}; give the file with the questions")
    first = known[0]
    for other in known[1:]:
        if other.prompt != first.prompt:
            raise DataError(f"{other.place}: id {other.id!r} stands for another prompt than in {first.place}; match by text")
    assert first.prompt is not None
    chat = next((one.chat for one in known if one.chat), ())
    name = next((one.id for one in answers if one.id is not None), str(number))
    return text_prompt(number, name, first.prompt, chat)


def _lengths(answers: Answers, unit: Unit) -> Sequence[int]:
    if unit == "tokens":
        assert answers.tokens is not None
        return answers.tokens
    return [len(text) for text in answers.responses]
