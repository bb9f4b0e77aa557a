"""The held-out comparisons of a run: its win rates with their intervals, as they are and as they would be at equal lengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from raypref.errors import RayprefError
from raypref.evaluation.against_baseline import against_baseline
from raypref.evaluation.length_controlled import LengthControlled
from raypref.evaluation.outcomes import Outcomes, summary
from raypref.evaluation.win_rate import WinRate, summarise
from raypref.output.numbered import iteration_name
from raypref.report.json_files import json_lines


@dataclass(frozen=True)
class Evaluation:
    """One policy against one opponent on the held-out prompts; a line of the file is a row of ``raypref.output.columns``."""

    iteration: int
    opponent: str
    rows: tuple[Mapping[str, Any], ...]
    win_rate: WinRate

    @property
    def tokens(self) -> float:
        """Mean response length of the policy."""
        return float(np.mean([row["challenger_tokens"] for row in self.rows]))

    @property
    def opponent_tokens(self) -> float:
        """Mean response length of the opponent."""
        return float(np.mean([row["defender_tokens"] for row in self.rows]))

    @cached_property
    def oracle(self) -> dict[str, float]:
        """What the oracle observed, as means over the prompts."""
        return summary(row.get("metrics", {}) for row in self.rows)

    @cached_property
    def by_prompt(self) -> dict[str, Mapping[str, Any]]:
        """Prompt id -> its row."""
        return {str(row["prompt_id"]): row for row in self.rows}


def read_evaluation(path: Path, interval: Mapping[str, Any]) -> Evaluation:
    """The comparisons of one file.

    Args:
        path: ``evaluation/iteration_0002_against_base.jsonl``.
        interval: ``resamples``, ``confidence`` and ``seed`` of the bootstrap; those of the run give the interval of ``summary.json``.

    Raises:
        ValueError, KeyError: it is damaged.
        OracleError: the oracle abstained on every prompt.
    """
    lines = json_lines(path)
    if lines.damaged or lines.torn:
        where = f"line {lines.damaged[0]} is damaged" if lines.damaged else "its last line is cut off"
        raise ValueError(where)
    if not lines.rows:
        raise ValueError("the file is empty")
    rates = [_number(row["win_rate"]) for row in lines.rows]
    return Evaluation(lines.rows[0]["iteration"], lines.rows[0]["opponent"], lines.rows, summarise(rates, **interval))


def rates(evaluations: Sequence[Evaluation]) -> dict[str, dict[str, Any]]:
    """Policy (``iteration_0002``) -> its win rate, as ``summary.json`` has it."""
    return {iteration_name(entry.iteration): asdict(entry.win_rate) for entry in evaluations}


def length_controlled(evaluations: Sequence[Evaluation], interval: Mapping[str, Any]) -> dict[int, LengthControlled] | str:
    """Iteration -> its win rate at equal lengths, as ``raypref evaluate length-controlled`` computes it from the same comparisons.

    The difficulty of the prompts is estimated from all iterations together where there are two or more.

    Args:
        evaluations: against one opponent, each on the same prompts.
        interval: as in ``read_evaluation``.

    Returns:
        Why there are none, where the correction for length cannot be computed: too few prompts, or lengths that do not vary.
    """
    if not evaluations:
        return "there is no evaluation"
    prompts = list(evaluations[0].by_prompt)
    same = [evaluation for evaluation in evaluations if list(evaluation.by_prompt) == prompts]
    size = len(same) + 1
    values = np.full((size, size, len(prompts)), np.nan)
    lengths = np.empty((size, len(prompts)))
    lengths[0] = [row["defender_tokens"] for row in same[0].rows]
    for place, evaluation in enumerate(same, start=1):
        values[place, 0] = [_number(row["win_rate"]) for row in evaluation.rows]
        values[0, place] = 1.0 - values[place, 0]
        lengths[place] = [row["challenger_tokens"] for row in evaluation.rows]
    names = ("opponent", *(str(evaluation.iteration) for evaluation in same))
    outcomes = Outcomes(names, values, lengths, "tokens", (0,) * size)
    try:
        found = against_baseline(outcomes, "opponent", **interval)
    except RayprefError as error:
        return str(error).removeprefix("length_controlled: ")
    return {int(name): rate for name, rate in found.items()}


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)
