"""What the oracle was asked about one group and what it answered, so that the group can be judged again without asking.

Judging is deterministic but for the oracle: from the same answers come the same picks, targets and metrics.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from raypref.judging.comparisons import AsyncOracle
from raypref.oracles.base import Question
from raypref.oracles.support.checked import Checked
from raypref.preferences import unknown
from raypref.types import Total


@dataclass(frozen=True, slots=True)
class Round:
    """One question and its answer."""

    pairs: tuple[tuple[int, int], ...]
    chances: tuple[float, ...]
    """P(i > j) of each pair; NaN where the oracle abstained."""
    observed: Mapping[str, Sequence[float]]
    """``Checked.observed``."""

    def answer(self, size: int) -> Checked:
        """The answer, as the oracle gave it, for a group of ``size`` responses."""
        values = unknown(size)
        for (i, j), chance in zip(self.pairs, self.chances, strict=True):
            values[i, j], values[j, i] = chance, 1.0 - chance
        return Checked(values, self.observed)


@dataclass(frozen=True, slots=True)
class Transcript:
    """All rounds of one group, in order."""

    rounds: Sequence[Round]

    def to_json(self) -> str:
        """As text; every number is the same one when it is read again."""
        rows = [
            {
                "pairs": round_.pairs,
                "chances": round_.chances,
                "observed": {name: list(figures) for name, figures in round_.observed.items()},
                "totals": [name for name, figures in round_.observed.items() if len(figures) and isinstance(figures[0], Total)],
            }
            for round_ in self.rounds
        ]
        return json.dumps(rows)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What ``to_json`` wrote."""
        return cls([_round(row) for row in json.loads(text)])


def _round(row: Mapping[str, Any]) -> Round:
    totals = set(row["totals"])
    observed = {name: [Total(x) for x in figures] if name in totals else figures for name, figures in row["observed"].items()}
    return Round(tuple((i, j) for i, j in row["pairs"]), tuple(row["chances"]), observed)


@dataclass
class Recording:
    """An oracle that keeps what it was asked and what it answered."""

    oracle: AsyncOracle
    rounds: list[Round] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.oracle.name

    async def ask(self, question: Question) -> Checked:
        """The oracle's answer."""
        answer = await self.oracle.ask(question)
        chances = tuple(float(answer.values[i, j]) for i, j in question.pairs)
        self.rounds.append(Round(tuple(question.pairs), chances, answer.observed))
        return answer


class Replayed:
    """Answers as a transcript has them, and asks nobody."""

    def __init__(self, transcript: Transcript, name: str) -> None:
        """
        Args:
            transcript: of the same group.
            name: of the oracle that answered.
        """
        self.name = name
        self._rounds = iter(transcript.rounds)

    async def ask(self, question: Question) -> Checked:
        """The next recorded answer.

        Raises:
            RuntimeError: the question is another one than was recorded.
        """
        recorded = next(self._rounds, None)
        if recorded is None or recorded.pairs != tuple(question.pairs):
            raise RuntimeError(f"prompt {question.prompt_id!r}: the journal has no answer about the responses {list(question.pairs)}")
        return recorded.answer(len(question.responses))
