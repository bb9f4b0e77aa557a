"""MT-Bench's figures from its judgments: mean scores by turn and category; wins, losses and ties against one model.

Source: lm-sys/FastChat ``fastchat/llm_judge/show_result.py``, whose means these are; the intervals resample the questions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from raypref.evaluation.bootstrap import percentiles, resampled_means
from raypref.evaluation.mt_bench.judgments import UNREADABLE
from raypref.evaluation.mt_bench.questions import Question

Judgment = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Scores:
    """A model's scores, from 1 to 10."""

    model: str
    score: float
    """Mean over all judgments; NaN without one."""
    low: float
    high: float
    """Bootstrap interval over the questions."""
    turns: dict[int, float]
    """Mean by turn."""
    categories: dict[str, float]
    """Mean by category, both turns."""
    judgments: int
    unreadable: int
    """Judgments without a rating; they are in no mean."""


@dataclass(frozen=True, slots=True)
class PairScores:
    """A model's comparisons with another one. A win in one order alone is a tie."""

    model: str
    against: str
    win_rate: float
    """(wins + ties / 2) / comparisons, FastChat's ``win_rate_adjusted``; NaN without a comparison."""
    low: float
    high: float
    """Bootstrap interval over the questions."""
    wins: int
    losses: int
    ties: int
    categories: dict[str, float]
    """``win_rate`` by category."""
    unreadable: int
    """Comparisons without a verdict in one of the orders; they are not counted."""
    other_order_disagrees: float
    """Share of the comparisons whose two orders name different winners."""


def scores(judgments: Sequence[Judgment], questions: Sequence[Question], **bootstrap: Any) -> list[Scores]:
    """Each model's scores, the best one first.

    Args:
        judgments: of single answers.
        questions: their categories.
        bootstrap: resamples, confidence, seed.
    """
    results = []
    for model in dict.fromkeys(judgment["model"] for judgment in judgments):
        own = [judgment for judgment in judgments if judgment["model"] == model]
        rated = [(str(one["question_id"]), one["turn"], float(one["score"])) for one in own if one["score"] != UNREADABLE]
        mean, low, high = _mean([(name, value) for name, _, value in rated], **bootstrap)
        turns = {turn: float(np.mean([value for _, at, value in rated if at == turn])) for turn in sorted({at for _, at, _ in rated})}
        categories = _by_category([(name, value) for name, _, value in rated], questions)
        results.append(Scores(model, mean, low, high, turns, categories, len(own), len(own) - len(rated)))
    return sorted(results, key=lambda result: -np.nan_to_num(result.score, nan=-1.0))


def pair_scores(judgments: Sequence[Judgment], questions: Sequence[Question], **bootstrap: Any) -> list[PairScores]:
    """Each model's win rate against the one that all were compared with, the best one first; arguments as in ``scores``."""
    results = []
    for model, against in dict.fromkeys((judgment["model_1"], judgment["model_2"]) for judgment in judgments):
        own = [one for one in judgments if (one["model_1"], one["model_2"]) == (model, against)]
        verdicts = [(str(one["question_id"]), one["g1_winner"], one["g2_winner"]) for one in own]
        verdicts = [verdict for verdict in verdicts if "error" not in verdict[1:]]
        values = [(name, {"model_1": 1.0, "model_2": 0.0}.get(first, 0.5) if first == second else 0.5) for name, first, second in verdicts]
        mean, low, high = _mean(values, **bootstrap)
        wins, losses = (sum(value == wanted for _, value in values) for wanted in (1.0, 0.0))
        disagree = float(np.mean([{first, second} == {"model_1", "model_2"} for _, first, second in verdicts])) if verdicts else np.nan
        categories, ties = _by_category(values, questions), len(values) - wins - losses
        results.append(PairScores(model, against, mean, low, high, wins, losses, ties, categories, len(own) - len(verdicts), disagree))
    return sorted(results, key=lambda result: -np.nan_to_num(result.win_rate, nan=-1.0))


def _mean(values: Sequence[tuple[str, float]], *, resamples: int, confidence: float, seed: int) -> tuple[float, float, float]:
    """Mean over all judgments and its interval; a question's judgments are drawn together."""
    if not values:
        return np.nan, np.nan, np.nan
    names = list(dict.fromkeys(name for name, _ in values))
    grouped = [[value for name, value in values if name == wanted] for wanted in names]
    sums = np.array([[sum(group), len(group)] for group in grouped], dtype=np.float64)
    means = resampled_means(sums, resamples=resamples, seed=seed)
    low, high = percentiles((means[:, 0] / means[:, 1])[:, None], confidence)
    return float(sums[:, 0].sum() / sums[:, 1].sum()), float(low[0]), float(high[0])


def _by_category(values: Sequence[tuple[str, float]], questions: Sequence[Question]) -> dict[str, float]:
    category = {str(question.id): question.category for question in questions}
    names = [name for name in dict.fromkeys(category.values()) if any(category[key] == name for key, _ in values)]
    return {name: float(np.mean([value for key, value in values if category[key] == name])) for name in names}
