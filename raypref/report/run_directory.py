"""What a run has left in its directory so far: config, metrics, evaluations, failures. Nothing is written, and nothing must be there but
the config and the metrics: a run that was killed, or still goes on, is read the same way."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import yaml

from raypref.config import RunConfig
from raypref.errors import ConfigError, OracleError, RayprefError, reason_of
from raypref.output import environment
from raypref.output.checkpoint import Checkpoints
from raypref.output.numbered import by_number, number_in, step_in
from raypref.output.run_lock import LOCK, STALE_S, Holder
from raypref.report.evaluations import Evaluation, read_evaluation
from raypref.report.json_files import Lines, json_lines, json_object
from raypref.report.series import Series

State = Literal["finished", "running", "stopped"]


class RunDirectory:
    """A run's directory, read when something of it is asked for."""

    def __init__(self, path: Path) -> None:
        """
        Args:
            path: the run's ``output_dir``.

        Raises:
            ConfigError: no run was begun there, or its config is no YAML mapping.
        """
        if not (path / "config.yaml").is_file():
            what = "no such directory" if not path.exists() else "holds no run (there is no config.yaml)"
            raise ConfigError(f"{path}: {what}; give the output_dir of a run")
        self.path = path
        self.problems: list[str] = []
        """What could not be read, one line each."""
        self.unreadable: dict[str, str] = {}
        """Why: by file, as its path within the directory."""
        try:
            values = yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path / 'config.yaml'} cannot be read: {reason_of(error)}; restore it from a copy") from error
        if not isinstance(values, dict):
            raise ConfigError(f"{path / 'config.yaml'} holds no config; restore it from a copy")
        self.values: dict[str, Any] = values
        """The resolved config as it stands in the file; ``config`` is the same, validated."""

    # --- the config -------------------------------------------------------------------------------------------------------------------

    @cached_property
    def config(self) -> RunConfig | None:
        """The validated config; None where it cannot be: the run was given objects from Python, or code of its user that is not here."""
        if lacking := [name for name in RunConfig.model_fields if name not in self.values]:
            self.problems.append(
                f"config.yaml lacks {', '.join(lacking)} (cut off, or of an earlier version); defaults stand in their place"
            )
        try:
            return RunConfig.parse(self.values)
        except RayprefError as error:
            self.problems.append(f"config.yaml cannot be validated here, so some figures are left out: {str(error).splitlines()[0]}")
            return None

    def setting(self, path: str, default: Any = None) -> Any:
        """The value at a dotted path of ``config.yaml``; ``default`` where it is not there."""
        value: Any = self.values
        for part in path.split("."):
            if not isinstance(value, Mapping) or part not in value:
                return default
            value = value[part]
        return value

    # --- how far the run is ---------------------------------------------------------------------------------------------------------

    @cached_property
    def state(self) -> State:
        """Whether the run is finished, still held by a process, or neither: it was stopped, was killed, or failed."""
        lock = self.path / LOCK
        holder = Holder.read(lock)
        if holder is not None:
            lives = holder.lives()
            if lives or (lives is None and self._newest_change() - lock.stat().st_mtime < STALE_S):
                return "running"
        return "finished" if self.summary is not None else "stopped"

    @cached_property
    def summary(self) -> dict[str, Any] | None:
        """The content of ``summary.json``, which a finished run has."""
        return self._json("summary.json")

    @cached_property
    def plan(self) -> dict[str, Any] | None:
        """The content of ``plan.json``: what was expected before the run started."""
        return self._json("plan.json")

    @cached_property
    def environment(self) -> dict[str, Any]:
        """The content of ``environment.json``: what the run runs on; of an earlier version's run ``versions`` alone."""
        return self._json(environment.NAME) or {"versions": (self.summary or {}).get("versions", {})}

    @property
    def iterations(self) -> int | None:
        """How many the run is to have; None where the config does not say it."""
        if self.config is not None:
            return self.config.iterations
        value = self.setting("loop.iterations")
        return value if isinstance(value, int) else None

    @property
    def steps(self) -> int:
        """Optimiser steps taken so far; of a finished run those of its summary, also where its metrics are not whole."""
        return max(self.series("loss").steps[-1] if self.series("loss") else 0, int((self.summary or {}).get("steps", 0)))

    @property
    def finished_iterations(self) -> int:
        """As ``steps``."""
        return max(len(self.iteration_ends), int((self.summary or {}).get("iterations", 0)))

    @cached_property
    def iteration_ends(self) -> tuple[int, ...]:
        """The last step of each finished iteration; the first entry belongs to iteration 1."""
        return self.series("time/iteration_s").steps

    def steps_of(self, iteration: int) -> tuple[int, int]:
        """First and last step of an iteration, from 1; the one that is not finished ends with the newest step.

        Where the metrics do not say when iterations ended, those that they do not know count as one.
        """
        ends = self.iteration_ends
        first = 1 + max(ends[: iteration - 1], default=0)
        return first, ends[iteration - 1] if iteration <= len(ends) else max(first, self.steps)

    @cached_property
    def begun_iterations(self) -> int:
        """How many iterations have at least one step."""
        ends = self.iteration_ends
        return len(ends) + (self.steps > (ends[-1] if ends else 0))

    # --- metrics --------------------------------------------------------------------------------------------------------------------

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of ``metrics.jsonl``; the last one is left out while it is being written."""
        return [row for row in self.metric_lines.rows if isinstance(row.get("step"), int)]

    @cached_property
    def metric_lines(self) -> Lines:
        """What ``metrics.jsonl`` holds, and how much of it is damaged."""
        return self._json_lines("metrics.jsonl")

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The metrics that the run has, in alphabetical order."""
        return tuple(sorted(self._all_series))

    def series(self, name: str) -> Series:
        """A metric over the run; empty where the run does not have it."""
        return self._all_series.get(name, Series(name, (), ()))

    def under(self, prefix: str) -> list[Series]:
        """All metrics whose names begin with ``prefix``."""
        return [self._all_series[name] for name in self.names if name.startswith(prefix)]

    @cached_property
    def _all_series(self) -> dict[str, Series]:
        found: dict[str, dict[int, float]] = {}
        for row in self.metrics:
            for name, value in row.items():
                if name != "step" and isinstance(value, int | float) and math.isfinite(value):
                    found.setdefault(name, {})[row["step"]] = float(value)
        return {name: Series(name, tuple(sorted(at)), tuple(at[step] for step in sorted(at))) for name, at in found.items()}

    def by_iteration(self, name: str) -> list[float]:
        """The mean of a metric over the steps of each begun iteration; NaN where it was not written."""
        series = self.series(name)
        return [series.between(*self.steps_of(number)).mean for number in range(1, self.begun_iterations + 1)]

    @cached_property
    def run_s(self) -> float:
        """Wall seconds of the loop, those of every attempt of a run that was resumed together."""
        if self.summary is not None and len(self._attempts) == 1:
            return float(self.summary["run_s"])
        return sum(self._attempts)

    @cached_property
    def _attempts(self) -> list[float]:
        """Seconds of each attempt: the clock of the metrics starts anew with every resumption."""
        clock = [float(row["time/run_s"]) for row in self.metrics if "time/run_s" in row]
        return [now for now, following in itertools.pairwise([*clock, -1.0]) if following < now] or [0.0]

    @property
    def resumptions(self) -> int:
        """How often the run was resumed, as far as its metrics show it."""
        return len(self._attempts) - 1

    # --- evaluations ------------------------------------------------------------------------------------------------------------------

    @cached_property
    def evaluations(self) -> list[Evaluation]:
        """The held-out comparisons, by iteration, then by opponent; those that cannot be read are left out."""
        found = []
        for path in by_number((self.path / "evaluation").glob("iteration_*_against_*.jsonl")):
            try:
                found.append(read_evaluation(path, self.interval))
            except (OSError, ValueError, KeyError, TypeError, OracleError) as error:
                self._cannot_be_read(path.relative_to(self.path).as_posix(), error)
        return found

    @property
    def opponents(self) -> list[str]:
        """Those of the evaluations: ``base``, ``previous``, then others in alphabetical order."""
        names = {evaluation.opponent for evaluation in self.evaluations}
        return sorted(names, key=lambda name: ({"base": 0, "previous": 1}.get(name, 2), name))

    def against(self, opponent: str) -> list[Evaluation]:
        """The evaluations against an opponent, by iteration."""
        return [evaluation for evaluation in self.evaluations if evaluation.opponent == opponent]

    @property
    def interval(self) -> dict[str, Any]:
        """How the run computes the intervals of its win rates: arguments of ``summarise``."""
        return {
            "resamples": self.setting("evaluation.bootstrap_resamples", 2000),
            "confidence": self.setting("evaluation.confidence", 0.95),
            "seed": self.setting("seed", 0),
        }

    @cached_property
    def held_out(self) -> list[dict[str, Any]]:
        """Losses on held-out examples of given data, in order; of a run that is not finished, those of its newest checkpoint."""
        if self.summary is not None:
            return list(self.summary.get("held_out", []))
        saved = Checkpoints(self.path / "checkpoints", 1).complete()
        try:
            return Checkpoints.read_held_out(saved[-1]) if saved else []
        except (OSError, ValueError, TypeError, AttributeError) as error:
            self._cannot_be_read((saved[-1] / "state.json").relative_to(self.path).as_posix(), error)
            return []

    @property
    def exported(self) -> dict[int | None, Path]:
        """The policies on disk: iteration -> model directory; None -> the final one."""
        found: dict[int | None, Path] = {
            number_in(path.name): path
            for path in by_number((self.path / "policies").glob("iteration_*"))
            if path.is_dir() and not step_in(path.name)
        }
        if (self.path / "policy" / "config.json").is_file():
            found[None] = self.path / "policy"
        return found

    @property
    def set_aside(self) -> list[dict[str, Any]]:
        """Prompts that were set aside: ``time``, ``prompt``, ``step``, ``reason``."""
        return (self.summary or {}).get("set_aside") or list(self._json_lines("set_aside.jsonl").rows)

    def _json_lines(self, name: str) -> Lines:
        lines = json_lines(self.path / name)
        self.problems += [f"{name}:{number}: damaged; the line is left out" for number in lines.damaged]
        return lines

    def _json(self, name: str) -> dict[str, Any] | None:
        try:
            return json_object(self.path / name)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            self._cannot_be_read(name, error)
            return None

    def _cannot_be_read(self, name: str, error: Exception) -> None:
        self.unreadable[name] = reason = str((isinstance(error, OSError) and error.strerror) or error)  # without the path
        self.problems.append(f"{name} cannot be read: {reason}")

    def _newest_change(self) -> float:
        """By the file system's own clock, in which the lock is renewed, too: the newest of the files that a running run writes."""
        paths = [self.path / "metrics.jsonl", self.path / LOCK, *(self.path / "logs").glob("*.log")]
        return max((path.stat().st_mtime for path in paths if path.exists()), default=0.0)
