"""What was measured of one policy, as a file, and the comparison of two policies."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from raypref.errors import ConfigError
from raypref.evaluation.capability.tasks import MAIN_METRIC
from raypref.output.numbered import by_number
from raypref.output.whole_file import write_whole

if TYPE_CHECKING:
    from rich.table import Table

CLEARLY = 2.0
"""Standard errors of a difference beyond which a figure has fallen."""
BASE, LAST = "base", "policy"
"""Names of the base policy and of the last one; between them are ``iteration_0001`` and so on."""


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
    def of(cls, policy: str, model: str, found: Mapping[str, Any], tasks: Mapping[str, int | None], limit: int | None) -> Self:
        """From what ``job`` wrote: ``results``, task -> lm-eval's figures, and ``version``."""
        figures = {task: _figure(task, found["results"][task], examples) for task, examples in tasks.items()}
        return cls(policy, model, figures, limit, found["version"])

    @classmethod
    def read(cls, path: Path) -> Self:
        """From a file of ``write``.

        Raises:
            ConfigError: it is damaged.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            tasks = {
                name: Figure(**{**figure, "error": math.nan if figure["error"] is None else figure["error"]})
                for name, figure in values.pop("tasks").items()
            }
            return cls(tasks=tasks, **values)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"{path} cannot be read ({error}); remove it, and measure again with raypref capability") from error

    def write(self, directory: Path) -> Path:
        """Write ``<policy>.json``, in place of an earlier one; returns its path."""
        values = asdict(self)
        for figure in values["tasks"].values():
            figure["error"] = None if math.isnan(figure["error"]) else figure["error"]
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"{self.policy}.json"
        write_whole(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")
        return path


def read_all(directory: Path) -> list[Capability]:
    """All policies measured in a directory: the base policy first, then by iteration."""
    first, last = (directory / f"{name}.json" for name in (BASE, LAST))
    paths = [first, *by_number(directory.glob("iteration_*.json")), last]
    return [Capability.read(path) for path in paths if path.exists()]


def fallen(before: Capability, now: Capability) -> dict[str, tuple[float, float]]:
    """Tasks whose figure is clearly lower: task -> (before, now).

    Clearly: by more than two standard errors of the difference; at all where lm-eval gives no standard errors. Figures that were measured
    otherwise (another metric, another number of examples or of records) are not compared.
    """
    if before.limit != now.limit:
        return {}
    pairs = {task: (before.tasks[task], now.tasks[task]) for task in now.tasks if task in before.tasks}
    return {
        task: (first.value, second.value)
        for task, (first, second) in pairs.items()
        if (first.metric, first.examples) == (second.metric, second.examples) and first.value - second.value > _error(first, second)
    }


def table(measured: Sequence[Capability]) -> Table:
    """One row per task, one column per policy: the figure and its standard error."""
    from rich.table import Table

    from raypref.output.terminal import visible

    shown = Table(title="capability (lm-eval), standard errors in brackets")
    shown.add_column("task")
    for one in measured:
        shown.add_column(visible(one.policy), justify="right")
    for task in dict.fromkeys(task for one in measured for task in one.tasks):
        shown.add_row(visible(task), *(_shown(one.tasks.get(task)) for one in measured))
    return shown


def _figure(task: str, found: Mapping[str, Any], examples: int | None) -> Figure:
    every = {name: float(value) for name, value in found.items() if isinstance(value, int | float) and not isinstance(value, bool)}
    every = {name: value for name, value in every.items() if "," in name}  # the others say how many examples and records there were
    errors = {name for name in every if name.partition(",")[0].endswith("_stderr")}
    wanted = MAIN_METRIC.get(task, "")
    metric = wanted if wanted in every else next(name for name in every if name not in errors)
    name, _, filtered = metric.partition(",")
    return Figure(metric, every[metric], every.get(f"{name}_stderr,{filtered}", math.nan), examples, every)


def _error(first: Figure, second: Figure) -> float:
    error = math.hypot(first.error, second.error)
    return 0.0 if math.isnan(error) else CLEARLY * error


def _shown(figure: Figure | None) -> str:
    if figure is None:
        return ""
    return f"{figure.value:.3f}" if math.isnan(figure.error) else f"{figure.value:.3f} [{figure.error:.3f}]"
