"""Which metrics a report shows as curves over the optimiser steps, and what to look for in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from raypref.report.parts import Plot
from raypref.report.plots import by_step
from raypref.report.run_directory import RunDirectory


@dataclass(frozen=True, slots=True)
class Curves:
    """One figure."""

    title: str
    unit: str
    lines: dict[str, str]
    """Name in the legend -> metric; those that a run does not have are left out."""
    caption: str = ""
    axis: Literal["free", "from zero", "log"] = "free"
    smooth: bool = True


TRAINING = (
    Curves(
        "Chosen and rejected rewards",
        "nats",
        {"chosen": "rewards/chosen", "rejected": "rewards/rejected"},
        "Both often fall; chosen must stay above rejected.",
    ),
    Curves("Margin between them", "nats", {"margin": "rewards/margins", "held out": "eval/rewards/margins"}),
    Curves(
        "Accuracy",
        "share",
        {"training": "rewards/accuracies", "held out": "eval/rewards/accuracies"},
        "Share of examples whose chosen reward is above the rejected one.",
    ),
    Curves("Log-probability per token", "nats per token", {"chosen": "logps/chosen_per_token", "rejected": "logps/rejected_per_token"}),
    Curves("KL", "nats per response", {"to the reference": "kl", "from the policy that samples": "kl_previous"}),
    Curves("Loss", "loss", {"training": "loss", "held out": "eval/loss"}, "Compare it within one iteration only."),
    Curves("Gradient norm before clipping", "norm", {"norm": "grad_norm"}, axis="log"),
    Curves("Learning rate", "rate", {"rate": "learning_rate"}, axis="from zero", smooth=False),
)
RESPONSES = (
    Curves(
        "Length",
        "tokens",
        {"training prompts": "rollout/response_tokens", "held-out prompts": "eval/response_tokens"},
        "Mean tokens of a response. Compare it with the length-controlled win rate and the oracle's length bias.",
    ),
    Curves(
        "Cut off at rollout.max_tokens",
        "share of responses",
        {"cut off": "rollout/truncated"},
        "Above 0.3 the oracle judges fragments.",
        "from zero",
    ),
    Curves(
        "Entropy of the policy",
        "nats per token",
        {"entropy": "entropy"},
        "Near 0 the responses of a group are nearly equal, and there is nothing to compare.",
        "from zero",
    ),
    Curves("Groups without a training example", "share of groups", {"dropped": "oracle/dropped"}, axis="from zero"),
)
ORACLE = (
    Curves(
        "Cycles and ties",
        "share",
        {"groups with a cycle": "oracle/cycle", "tied comparisons": "oracle/ties"},
        "A cycle: a beats b beats c beats a, which no reward function can express.",
        "from zero",
    ),
    Curves(
        "Lean",
        "correlation, probability",
        {"length bias": "oracle/length_bias", "position bias": "oracle/position_bias"},
        "Length bias: rank correlation of win rate and length within a group. Position bias: what the first place is worth.",
    ),
    Curves(
        "Spread of the win rates in a group",
        "probability",
        {"highest less lowest": "oracle/win_rate_spread"},
        "Below 0.1 there is little to learn.",
        "from zero",
    ),
    Curves(
        "Comparisons without an answer",
        "share",
        {"abstained": "oracle/abstained", "unparsed": "oracle/unparsed", "failed requests": "oracle/failed_requests"},
        axis="from zero",
    ),
    Curves("Cost", "at the prices of the config", {"cost": "oracle/cost_total"}, "Since the run was started or resumed.", "from zero"),
)
SYNC = (
    Curves(
        "Engines against the learner",
        "nats",
        {"largest difference": "sync/logprob_difference_max", "mean difference": "sync/logprob_difference_mean"},
        "Log-probs of the same tokens after each weight sync; far above the rounding of the number format, the engines hold other weights.",
        "log",
    ),
)
RESTARTS = Curves("Actors replaced", "actors", {}, "Since the run was started or resumed.", "from zero")
"""``failures/restarts/<role>``; the lines are those of the run."""


def plots_of(run: RunDirectory, figures: Sequence[Curves]) -> Iterator[Plot]:
    """The figures of which the run has a metric."""
    axes: dict[str, dict[str, Any]] = {"free": {}, "from zero": {"rangemode": "tozero"}, "log": {"type": "log"}}
    for figure in figures:
        curves = {name: run.series(metric) for name, metric in figure.lines.items()}
        yaxis = {"title": {"text": figure.unit}} | axes[figure.axis]
        plot = by_step(run, figure.title, curves, caption=figure.caption, smooth=figure.smooth, yaxis=yaxis)
        if plot is not None:
            yield plot
