"""Rollouts written by hand, and an oracle that answers from a table."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np

from raypref.judging.judge import Judge
from raypref.oracles.base import Answer, Oracle, Question
from raypref.types import Comparison, Judged, Prompt, Response, Rollout


def rollout(*texts: str, cut_off: Sequence[int] = (), prompt_id: str = "p", index: int = 0, policy_version: int = 2) -> Rollout:
    """One response per text, with one token per character: the character's code."""
    responses = []
    for k, text in enumerate(texts):
        ids = np.array([ord(letter) for letter in text], dtype=np.int32)
        responses.append(Response(ids, np.full(len(ids), -0.5, dtype=np.float32), text, "length" if k in cut_off else "stop"))
    prompt = Prompt(index, prompt_id, "Why?", np.array([1, 2, 3], dtype=np.int32))
    return Rollout(prompt, tuple(responses), policy_version)


class TableOracle(Oracle):
    """Reads P(a > b) from ``table`` by the responses' texts; records the questions."""

    type: str = "table"
    table: dict[str, Any]
    """Numbers, NaN among them: ``"a>b"`` -> P(a > b); the mirror image follows, unless it is -1 (abstain)."""
    asked: list[Question]

    def compare(self, questions: Sequence[Question]) -> list[Answer]:
        self.asked.extend(questions)
        return [Answer(np.array([[self._chance(a, b) for b in question.responses] for a in question.responses])) for question in questions]

    def _chance(self, a: str, b: str) -> float:
        if a == b:
            return 0.5
        if f"{a}>{b}" in self.table:
            return self.table[f"{a}>{b}"]
        mirrored = self.table.get(f"{b}>{a}", 0.5)
        return mirrored if mirrored < 0 else 1.0 - mirrored

    def identity(self) -> str:
        return repr(self.table)


class Judging:
    """A judge of groups, one after the other, with the oracle that it asks."""

    def __init__(self, oracle: Oracle, judge: Judge) -> None:
        self.oracle = oracle
        self._judge = judge

    def judge(self, group: Rollout) -> Judged:
        return asyncio.run(self._judge.judge(group))

    def compare(self, challenger: Rollout, defender: Rollout) -> Comparison:
        return asyncio.run(self._judge.compare(challenger, defender))
