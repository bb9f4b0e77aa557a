"""One judgment of MT-Bench: what the judge is asked, how its reply is read, and the record that FastChat reads.

Source: arXiv 2306.05685, section 3.1; lm-sys/FastChat ``fastchat/llm_judge/common.py``.

    single    {"question_id", "model", "judge": [model, prompt], "user_prompt", "judgment", "score", "turn", "tstamp"}
    pair      {"question_id", "model_1", "model_2", "g1_winner", "g2_winner", "judge", "g1_user_prompt", "g1_judgment", "g2_user_prompt",
               "g2_judgment", "turn", "tstamp"}
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raypref.errors import DataError
from raypref.evaluation.mt_bench.questions import JudgePrompt, Question

UNREADABLE = -1
"""FastChat's score of a reply without a rating; its scripts leave such judgments out."""
_RATINGS = (re.compile(r"\[\[(\d+\.?\d*)\]\]"), re.compile(r"\[(\d+\.?\d*)\]"))


@dataclass(frozen=True, slots=True)
class Grading:
    """One judgment to be made."""

    question: Question
    turn: int
    """1, or 2: the judge sees both turns and grades the second."""
    models: tuple[str, ...]
    """One name (single), or two (pair)."""
    prompt: JudgePrompt
    texts: tuple[str, ...]
    """The user's message to the judge; for a pair one for each order."""

    @property
    def key(self) -> tuple[Any, ...]:
        """What a judgment is found by in its file, with the judge's model."""
        return (str(self.question.id), self.turn, *self.models, self.prompt.name)

    def record(self, judge: str, replies: Sequence[str]) -> dict[str, Any]:
        """The judgment as FastChat writes it."""
        shared = {"judge": [judge, self.prompt.name], "turn": self.turn, "tstamp": time.time()}
        if len(self.models) == 1:
            own: dict[str, Any] = {"model": self.models[0], "user_prompt": self.texts[0], "judgment": replies[0]}
            return {"question_id": self.question.id, **own, "score": read_rating(replies[0]), **shared}
        first, second = self.models
        winners = (read_winner(replies[0], "model_1", "model_2"), read_winner(replies[1], "model_2", "model_1"))
        games = {
            f"g{number}_{name}": value
            for number, parts in enumerate(zip(winners, self.texts, replies, strict=True), start=1)
            for name, value in zip(("winner", "user_prompt", "judgment"), parts, strict=True)
        }
        return {"question_id": self.question.id, "model_1": first, "model_2": second, **games, **shared}


def read_rating(reply: str) -> float | int:
    """The first ``[[5]]`` of a reply, or else the first ``[5]``, as FastChat reads it; -1 where there is none from 1 to 10."""
    found = next((match for pattern in _RATINGS if (match := pattern.search(reply))), None)
    if found is None:
        return UNREADABLE
    value = float(found[1])
    if not 1 <= value <= 10:
        return UNREADABLE
    return int(value) if value == int(value) else value


def read_winner(reply: str, first: str, second: str) -> str:
    """The winner as FastChat reads it: by the first of [[A]], [[B]], [[C]] that the reply has anywhere; ``error`` without one."""
    return next((winner for mark, winner in (("[[A]]", first), ("[[B]]", second), ("[[C]]", "tie")) if mark in reply), "error")


def check_judgment(record: Mapping[str, Any], place: str) -> None:
    """Refuse what ``Grading.record`` cannot have written.

    Raises:
        DataError: naming the place and what is missing.
    """
    single = {"model", "user_prompt", "score"}
    pair = {"model_1", "model_2", "g1_winner", "g2_winner", "g1_user_prompt", "g2_user_prompt"}
    wanted = {"question_id", "turn", "judge", *(single if "model" in record else pair)}
    lacking = sorted(wanted - record.keys())
    judge = record.get("judge")
    if not lacking and not (isinstance(judge, list) and len(judge) == 2):
        lacking = ["judge, which is [model, prompt]"]
    if lacking:
        raise DataError(f"{place}: no judgment of MT-Bench ({', '.join(lacking)} missing); remove the file, or give another --output")


def key_of(record: Mapping[str, Any]) -> tuple[Any, ...]:
    """``Grading.key`` of a judgment that was written."""
    models = [record[name] for name in ("model", "model_1", "model_2") if name in record]
    return (str(record["question_id"]), record["turn"], *models, record["judge"][1])


def texts_of(record: Mapping[str, Any]) -> tuple[str, ...]:
    """``Grading.texts`` of a judgment that was written."""
    return tuple(record[name] for name in ("user_prompt", "g1_user_prompt", "g2_user_prompt") if name in record)
