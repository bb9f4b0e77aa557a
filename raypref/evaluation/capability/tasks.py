"""Which tasks, with how many examples in the prompt, and which of their figures counts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from raypref.errors import ConfigError, RunFailed
from raypref.output.capability import Figure

LEADERBOARD: Mapping[str, int | None] = {
    "arc_challenge": 25,
    "hellaswag": 10,
    "mmlu": 5,
    "truthfulqa_mc2": 0,
    "winogrande": 5,
    "gsm8k": 5,
}
"""The Open LLM Leaderboard of 2023 (SPPO Table 5, INPO Table 2): task -> examples in the prompt."""

MAIN_METRIC: Mapping[str, str] = {
    "arc_challenge": "acc_norm,none",
    "hellaswag": "acc_norm,none",
    "mmlu": "acc,none",
    "truthfulqa_mc2": "acc,none",
    "winogrande": "acc,none",
    "gsm8k": "exact_match,strict-match",
    "ifeval": "prompt_level_strict_acc,none",
}
"""The figure that the leaderboard shows. Of another task it is the first that lm-eval reports."""


def read_tasks(names: Iterable[str]) -> dict[str, int | None]:
    """Task -> examples in the prompt, from ``gsm8k``, ``gsm8k:8`` and ``leaderboard``; None: as the task itself says.

    Raises:
        ConfigError: a number of examples is none, a task is named twice, or there is no task.
    """
    tasks: dict[str, int | None] = {}
    for name in names:
        task, colon, number = name.partition(":")
        if colon and not number.isdecimal():
            raise ConfigError(f"--tasks {name}: {number!r} is no number of examples; write {task}:5")
        new = dict(LEADERBOARD) if name == "leaderboard" else {task: int(number) if colon else LEADERBOARD.get(task)}
        if twice := tasks.keys() & new.keys():
            raise ConfigError(f"--tasks {name}: {', '.join(sorted(twice))} is named twice")
        tasks |= new
    if not tasks or "" in tasks:
        raise ConfigError("--tasks: name at least one task of lm-eval, or leaderboard")
    return tasks


def main_figure(
    task: str, found: Mapping[str, Any], examples: int | None, higher_is_better: Mapping[str, bool | None] | None = None
) -> Figure:
    """The figure of a task that counts, among all that lm-eval gives for it.

    Args:
        task: its name.
        found: lm-eval's figures: ``acc,none``, ``acc_stderr,none`` and so on.
        examples: in the prompt.
        higher_is_better: of its metrics, as lm-eval says it; not for a perplexity. One that is not named counts as higher.

    Raises:
        RunFailed: lm-eval gives none, as for a group of tasks without a mean.
    """
    every = {name: float(value) for name, value in found.items() if isinstance(value, int | float) and not isinstance(value, bool)}
    every = {name: value for name, value in every.items() if "," in name}  # the others say how many examples and records there were
    errors = {name for name in every if name.partition(",")[0].endswith("_stderr")}
    wanted = MAIN_METRIC.get(task, "")
    metric = wanted if wanted in every else next((name for name in every if name not in errors), None)
    if metric is None:
        raise RunFailed(f"capability: lm-eval gives no figure of {task} as a whole; name the tasks that it consists of")
    name, _, filtered = metric.partition(",")
    lower = (higher_is_better or {}).get(name) is False
    return Figure(metric, every[metric], every.get(f"{name}_stderr,{filtered}", math.nan), examples, every, lower)
