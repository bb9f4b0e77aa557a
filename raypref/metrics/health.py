"""Is the run healthy? From the history of its metrics to findings: what left its healthy range, when, how badly, and what to do.

    watch = HealthWatch(table)
    for line in metrics_of_the_run:             # lines as in metrics.jsonl
        for finding in watch.observe(line): ...

``findings`` does the same with a complete history and gives the same answer, so that the warnings of a run that goes on, its
``warnings.jsonl`` and the report of a finished run agree.

Limits are those of the metric table (``MetricInfo.healthy``, ``critical``, ``drift``), and of the few rules below that look at more than
one metric. A metric of single steps must be outside by clearly more than chance explains: a few standard errors of its last values.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from raypref.metric_info import MetricInfo
from raypref.metrics import health_rules as rules
from raypref.metrics.health_rules import LEAST, RANKS, RECENT, Breach, Series, Severity
from raypref.metrics.run import RUN_METRICS
from raypref.metrics.table import MetricTable

_EVALUATED = ("eval/win_rate", "eval/response_tokens", "eval/oracle/")
"""Metrics of an iteration's policy that are written when the next one has begun."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be, at the step at which it was noticed, or at which it had become worse."""

    metric: str
    severity: Severity
    text: str
    """What is the matter, with the figures: one sentence."""
    remedy: str
    """What to do about it."""
    value: float
    iteration: int
    """From 1."""
    step: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def findings(history: Iterable[Mapping[str, float | None]], table: MetricTable | None = None, max_grad_norm: float = 0.0) -> list[Finding]:
    """All findings of a run, in the order in which they arose; a metric comes again only where it had become worse.

    Args:
        history: the lines of ``metrics.jsonl`` (``step`` and metrics by name; null where a value was not a number).
        table: the run's metrics; default: raypref's own.
        max_grad_norm: ``learner.max_grad_norm`` of the run; 0: gradients are not clipped.
    """
    watch = HealthWatch(table, max_grad_norm)
    return [finding for line in history for finding in watch.observe(line)]


def lasting(history: Iterable[Mapping[str, float | None]], table: MetricTable | None = None, max_grad_norm: float = 0.0) -> list[Finding]:
    """What is still the matter at the end of the history, the worst first. Arguments as ``findings``."""
    watch = HealthWatch(table, max_grad_norm)
    for line in history:
        watch.observe(line)
    return sorted(watch.standing.values(), key=lambda finding: -RANKS[finding.severity])


class HealthWatch:
    """Reads the metrics of a run line by line, and says what is not as it should be: once, and again if it has become worse."""

    def __init__(self, table: MetricTable | None = None, max_grad_norm: float = 0.0) -> None:
        """See ``findings``."""
        self._table = MetricTable() if table is None else table
        self._max_grad_norm = max_grad_norm
        self._series: dict[str, Series] = {}
        self._entries: dict[str, MetricInfo] = {}
        self._said: dict[str, Breach] = {}
        """The worst that was said, by key."""
        self._best = 0.0
        """The best win rate against the base so far."""
        self._kl_at_best: float | None = None
        self._iteration = 1
        self.standing: dict[str, Finding] = {}
        """What is the matter now, by metric and rule."""

    def observe(self, line: Mapping[str, float | None]) -> list[Finding]:
        """Take one line; the findings that it adds."""
        names = [name for name, value in line.items() if name != "step" and isinstance(value, float | int) and math.isfinite(value)]
        for name in names:
            self._add(name, float(line[name] or 0.0))
        step, new = int(line.get("step") or 0), []
        for name in names:
            if (entry := self._entries.get(name)) is None:
                continue
            for key, breach in self._judge(name, entry).items():
                if breach is None:
                    self.standing.pop(key, None)
                    continue
                iteration = max(1, self._iteration - 1) if name.startswith(_EVALUATED) else self._iteration
                finding = Finding(breach.metric, breach.severity, breach.text, breach.remedy, breach.value, iteration, step)
                self.standing[key] = finding
                if self._worse(breach):
                    self._said[key] = breach
                    new.append(finding)
        if "time/iteration_s" in line:
            self._iteration += 1
        return new

    def _add(self, name: str, value: float) -> None:
        if name not in self._series:
            entry = self._table.find(name)
            if entry is not None:
                self._entries[name] = entry
            self._series[name] = Series(once=name.startswith("eval/") or entry in RUN_METRICS)
        self._series[name].add(value)

    def _worse(self, breach: Breach) -> bool:
        """Whether it was not said yet, or was said of something milder."""
        before = self._said.get(breach.key)
        if before is None or RANKS[breach.severity] > RANKS[before.severity]:
            return True
        return breach.severity == before.severity != "note" and breach.distance >= 2 * before.distance

    def _judge(self, name: str, entry: MetricInfo) -> dict[str, Breach | None]:
        """Rule -> its breach; None where it is kept. Rules that cannot be judged yet are left out."""
        series, found = self._series[name], {}
        if entry.healthy is not None:
            found[name] = rules.outside_range(name, entry, series)
        if entry.drift is not None and series.later >= LEAST:
            found[f"{name} drift"] = rules.drifted(name, entry, series)
        for key, breach in self._special(name, entry, series):
            found[key] = breach
        return found

    def _special(self, name: str, entry: MetricInfo, series: Series) -> Iterator[tuple[str, Breach | None]]:
        lengths = self._series.get("rollout/response_tokens")
        if name in ("kl", "kl_previous") and lengths is not None and len(series.recent) >= LEAST:
            yield f"{name} per token", rules.far_per_token(name, series, lengths.mean)
        if name == "grad_norm" and self._max_grad_norm and len(series.recent) == RECENT:
            yield "grad_norm clipped", rules.all_clipped(entry, series, self._max_grad_norm)
        if name == "eval/win_rate_against_base":
            yield from self._since_the_best(name, series.recent[-1])
        if name == "eval/response_tokens" and "eval/win_rate_against_previous" in self._series and len(series.recent) > 1:
            won = self._series["eval/win_rate_against_previous"].recent[-1]
            yield f"{name} without gain", rules.longer_without_gain(name, series.recent[-2], series.recent[-1], won)
        if name == "eval/loss" and len(series.recent) > 1:
            yield f"{name} rose", rules.rose(name, entry, series)

    def _since_the_best(self, name: str, rate: float) -> Iterator[tuple[str, Breach | None]]:
        """What has become of the win rate, and of the distance to pi_ref, since the best evaluation."""
        kl = self._series["kl"].late if "kl" in self._series else None
        if rate >= self._best:
            self._best, self._kl_at_best = rate, kl
        yield f"{name} fell", rules.fallen(name, rate, self._best)
        if kl is not None and self._kl_at_best is not None:
            yield "kl without gain", rules.further_without_gain(kl, self._kl_at_best, rate, self._best)
