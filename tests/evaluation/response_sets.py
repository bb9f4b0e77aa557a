"""Sets of responses made by hand, and a judge that answers from a table."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from raypref.evaluation.response_files import ResponseSet
from raypref.evaluation.response_formats import Answers
from raypref.types import Comparison, Rollout, Total

HOW = {"resamples": 200, "confidence": 0.9, "seed": 0}


def response_set(name: str, *answers: Sequence[str] | str, ids: bool = True, tokens: bool = False) -> ResponseSet:
    """The k-th argument: the responses to prompt ``question k``, of id ``qk``; a token is a letter."""
    records = []
    for number, given in enumerate(answers):
        texts = (given,) if isinstance(given, str) else tuple(given)
        counts = tuple(map(len, texts)) if tokens else None
        records.append(Answers(f"{name}:{number + 1}", f"q{number}" if ids else None, f"question {number}", texts, counts))
    return ResponseSet(name, tuple(records))


class TableJudge:
    """P(a > b) from a table of ``"a>b"``, or one minus that of ``"b>a"``; ``met`` lists the comparisons. A call costs 0.25."""

    def __init__(self, table: Mapping[str, float]) -> None:
        self.table = table
        self.met: list[tuple[str, tuple[str, ...], tuple[str, ...]]] = []

    async def __call__(self, challenger: Rollout, defender: Rollout) -> Comparison:
        first, second = (tuple(response.text for response in side.responses) for side in (challenger, defender))
        self.met.append((challenger.prompt.id, first, second))
        chances = [self._chance(a, b) for a in first for b in second]
        known = [chance for chance in chances if chance == chance]
        mean = sum(known) / len(known) if known else float("nan")
        metrics = {"oracle/abstained": 1.0 - len(known) / len(chances), "oracle/cost_usd_total": Total(0.25)}
        return Comparison(challenger.prompt.id, challenger.prompt.text, mean, first[0], second[0], 0.0, 0.0, metrics)

    def _chance(self, a: str, b: str) -> float:
        return self.table[f"{a}>{b}"] if f"{a}>{b}" in self.table else 1.0 - self.table[f"{b}>{a}"]


def shown(table: Table) -> str:
    """A table as it is printed on a wide terminal."""
    console = Console(width=200, file=io.StringIO())
    console.print(table)
    return console.file.getvalue()
