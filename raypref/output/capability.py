"""What was measured of the capability of a run's policies, as files, and whether it has fallen, while the win rate has risen or not.

``raypref.evaluation.capability`` measures it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from raypref.errors import ConfigError
from raypref.output.numbered import by_number
from raypref.output.terminal import interval, visible
from raypref.output.whole_file import write_whole

if TYPE_CHECKING:
    from rich.table import Table

Rate = Mapping[str, Any]
"""A win rate against the base policy: ``win_rate``, ``low`` and ``high``, as an evaluation has them under ``base``."""
CLEARLY = 2.0
"""Standard errors of a difference beyond which a figure has fallen."""
BASE, LAST = "base", "policy"
"""Names of the base policy, and of one that belongs to no run; those of a run's iterations are ``iteration_0001`` and so on."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One task's main figure."""

    metric: str
    """As lm-eval names it: ``acc_norm,none``."""
    value: float
    error: float
    """Standard error; NaN where lm-eval gives none."""
    examples: int | None
    """In the prompt; None: as the task says."""
    every: Mapping[str, float]
    """All of the task's figures."""
    lower_is_better: bool = False
    """As lm-eval says of the metric, such as a perplexity."""


@dataclass(frozen=True, slots=True)
class Capability:
    """The figures of one policy."""

    policy: str
    """``base``, ``iteration_0002``."""
    model: str
    tasks: dict[str, Figure]
    limit: int | None
    """Records of each task; None: all."""
    version: str
    """Of lm-eval."""

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> Self:
        """From what ``record`` gives."""
        tasks = {
            name: Figure(**{**figure, "error": math.nan if figure["error"] is None else figure["error"]})
            for name, figure in record["tasks"].items()
        }
        return cls(**{**record, "tasks": tasks})

    def record(self) -> dict[str, Any]:
        """As JSON holds it: an error that is not known is None."""
        values = asdict(self)
        for figure in values["tasks"].values():
            figure["error"] = None if math.isnan(figure["error"]) else figure["error"]
        return values

    @classmethod
    def read(cls, path: Path) -> Self:
        """From a file of ``write``.

        Raises:
            ConfigError: it is damaged.
        """
        try:
            return cls.of_record(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"{path} cannot be read ({error}); remove it, and measure again with raypref capability") from error

    def write(self, directory: Path) -> Path:
        """Write ``<policy>.json``, in place of an earlier one; returns its path."""
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"{self.policy}.json"
        write_whole(path, json.dumps(self.record(), indent=2, ensure_ascii=False) + "\n")
        return path


def read_all(directory: Path) -> list[Capability]:
    """All policies measured in a directory: the base policy first, then by iteration.

    Raises:
        ConfigError: one of the files is damaged.
    """
    first, last = (directory / f"{name}.json" for name in (BASE, LAST))
    paths = [first, *by_number(directory.glob("iteration_*.json")), last]
    return [Capability.read(path) for path in paths if path.exists()]


def of_run(output_dir: Path) -> tuple[list[Capability], list[str]]:
    """What was measured of a run's policies, and a sentence where it cannot be judged."""
    try:
        measured = read_all(output_dir / "capability")
    except ConfigError as error:
        return [], [f"Capability cannot be judged: {str(error).removeprefix(f'{output_dir}/')}."]
    if measured and measured[0].policy != BASE:
        return measured, [f"Capability cannot be judged: capability/{BASE}.json is missing, with which {measured[-1].policy} is compared."]
    return measured, []


def compared(before: Capability, now: Capability) -> dict[str, tuple[Figure, Figure]]:
    """The tasks that were measured in the same way of both: the same metric, examples in the prompt, and records."""
    if before.limit != now.limit:
        return {}
    pairs = {task: (before.tasks[task], now.tasks[task]) for task in now.tasks if task in before.tasks}
    return {
        task: (first, second)
        for task, (first, second) in pairs.items()
        if (first.metric, first.examples) == (second.metric, second.examples)
    }


def fallen(before: Capability, now: Capability) -> dict[str, tuple[float, float]]:
    """Tasks whose figure is clearly worse: task -> (before, now). Worse is lower, or higher where ``lower_is_better``.

    Clearly: by more than two standard errors of the difference; at all where lm-eval gives no standard errors.
    """
    pairs = compared(before, now).items()
    return {task: (first.value, second.value) for task, (first, second) in pairs if _loss(first, second) > _error(first, second)}


def remarks(measured: Sequence[Capability], rates: Mapping[str, Rate]) -> dict[str, str]:
    """Policy -> a sentence, for each policy that has clearly lost something since the base policy (``fallen``).

    The sentence says so if the policy's win rate has risen meanwhile: its whole interval is above one half, the base policy's own.

    Args:
        measured: from ``read_all``; without the base policy, which is its first, nothing can be said.
        rates: policy -> its win rate against the base policy, where it was evaluated.
    """
    found: dict[str, str] = {}
    for one in measured[1:] if measured and measured[0].policy == BASE else ():
        if lower := fallen(measured[0], one):
            changes = ", ".join(f"{task} {before:.3f} to {now:.3f}{_direction(one.tasks[task])}" for task, (before, now) in lower.items())
            rate = rates.get(one.policy)
            beside = "" if rate is None or rate["low"] <= 0.5 else f", while its win rate against base has risen to {interval(rate)}"
            found[one.policy] = f"Capability of {one.policy} has fallen: {changes}{beside}."
    return found


def table(measured: Sequence[Capability], rates: Mapping[str, Rate]) -> Table:
    """One column per policy: its win rate against the base policy where it was evaluated, then each task's figure and standard error."""
    from rich.table import Table

    shown = Table(title="capability (lm-eval), standard errors in brackets")
    shown.add_column("task")
    for one in measured:
        shown.add_column(visible(one.policy), justify="right")
    known = [rates.get(one.policy) for one in measured]
    if any(known):
        shown.add_row("win rate against base [its interval]", *("" if rate is None else interval(rate) for rate in known), end_section=True)
    for task in dict.fromkeys(task for one in measured for task in one.tasks):
        known_of = next(one.tasks[task] for one in reversed(measured) if task in one.tasks)
        shown.add_row(f"{visible(task)}{_direction(known_of)}", *(_shown(one.tasks.get(task)) for one in measured))
    return shown


def _loss(first: Figure, second: Figure) -> float:
    change = first.value - second.value
    return -change if second.lower_is_better or first.lower_is_better else change


def _direction(figure: Figure) -> str:
    return " (lower is better)" if figure.lower_is_better else ""


def _error(first: Figure, second: Figure) -> float:
    error = math.hypot(first.error, second.error)
    return 0.0 if math.isnan(error) else CLEARLY * error


def _shown(figure: Figure | None) -> str:
    if figure is None:
        return ""
    return f"{figure.value:.3f}" if math.isnan(figure.error) else f"{figure.value:.3f} [{figure.error:.3f}]"
