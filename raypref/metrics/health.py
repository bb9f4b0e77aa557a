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
import statistics
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from raypref.metric_info import MetricInfo, range_text
from raypref.metrics.run import RUN_METRICS
from raypref.metrics.table import MetricTable

Severity = Literal["note", "warning", "critical"]
"""note: worth knowing, normal for some runs; warning: outside its healthy range; critical: the run is hardly worth its cost."""

_RANKS: dict[str, int] = {"note": 0, "warning": 1, "critical": 2}
_RECENT = 20
"""Values that a judgement rests on: the last ones."""
_LEAST, _LEAST_CRITICAL = 5, 3
"""Values that it takes at least, for a warning and where all are critical."""
_FIRST = 10
"""Values at the start of the run that later ones are compared with."""
_KL_PER_TOKEN = (0.3, 1.0)
"""Nats per response token between two policies, as warning and as critical; healthy runs of the papers' recipes stay below 0.1."""
_FALL_OF_WIN_RATE = 0.05
"""Below the best evaluation so far."""
_RISE_OF_HELD_OUT_LOSS = 0.05
"""Relative to the loss before training."""


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
    return sorted(watch.standing.values(), key=lambda finding: -_RANKS[finding.severity])


@dataclass(slots=True)
class _Series:
    """The values of one metric."""

    once: bool
    """Whether a value stands for itself: one evaluation, one iteration. Otherwise it is one of many steps."""
    first: list[float] = field(default_factory=list)
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))
    later: int = 0
    """Values after the first ones."""

    def add(self, value: float) -> None:
        self.recent.append(value)
        if len(self.first) < _FIRST:
            self.first.append(value)
        else:
            self.later += 1

    @property
    def mean(self) -> float:
        return sum(self.recent) / len(self.recent)

    def chance(self) -> float:
        """By how much the mean may be off by chance: 4 to 7 standard errors, more for fewer values; it is looked at at every step."""
        count, mean = len(self.recent), self.mean
        squares = sum((value - mean) ** 2 for value in self.recent)
        return 0.0 if count < 2 else (4 + 10 / count) * math.sqrt(squares / (count - 1) / count)


@dataclass(frozen=True, slots=True)
class _Breach:
    """A limit that is passed now."""

    key: str
    """The metric, and the rule where there are several of one metric."""
    metric: str
    severity: Severity
    text: str
    remedy: str
    value: float
    distance: float
    """How far beyond the limit, in any unit: twice as far is worth saying again."""


class HealthWatch:
    """Reads the metrics of a run line by line, and says what is not as it should be: once, and again if it has become worse."""

    def __init__(self, table: MetricTable | None = None, max_grad_norm: float = 0.0) -> None:
        """See ``findings``."""
        self._table = MetricTable() if table is None else table
        self._max_grad_norm = max_grad_norm
        self._series: dict[str, _Series] = {}
        self._entries: dict[str, MetricInfo] = {}
        self._said: dict[str, _Breach] = {}
        """The worst that was said, by key."""
        self._best: dict[str, float] = {}
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
                finding = Finding(
                    breach.metric, breach.severity, breach.text, breach.remedy, breach.value, iteration=self._iteration, step=step
                )
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
            self._series[name] = _Series(once=name.startswith("eval/") or entry in RUN_METRICS)
        self._series[name].add(value)

    def _worse(self, breach: _Breach) -> bool:
        """Whether it was not said yet, or was said of something milder."""
        before = self._said.get(breach.key)
        if before is None or _RANKS[breach.severity] > _RANKS[before.severity]:
            return True
        return breach.severity == before.severity != "note" and breach.distance >= 2 * before.distance

    def _judge(self, name: str, entry: MetricInfo) -> dict[str, _Breach | None]:
        """Rule -> its breach; None where it is kept. Rules that cannot be judged yet are left out."""
        series, found = self._series[name], {}
        if entry.healthy is not None:
            found[name] = _outside_range(name, entry, series)
        if entry.drift is not None and series.later >= _LEAST:
            found[f"{name} drift"] = _drifted(name, entry, series)
        for key, breach in self._special(name, entry, series):
            found[key] = breach
        return found

    def _special(self, name: str, entry: MetricInfo, series: _Series) -> Iterator[tuple[str, _Breach | None]]:
        lengths = self._series.get("rollout/response_tokens")
        if name in ("kl", "kl_previous") and lengths is not None and len(series.recent) >= _LEAST:
            yield f"{name} per token", _far_per_token(name, series, lengths.mean)
        if name == "grad_norm" and self._max_grad_norm and len(series.recent) == _RECENT:
            yield "grad_norm clipped", _all_clipped(entry, series, self._max_grad_norm)
        if name == "eval/win_rate_against_base":
            best = self._best[name] = max(self._best.get(name, 0.0), series.recent[-1])
            yield f"{name} fell", _fallen(name, series.recent[-1], best)
        if name == "eval/loss" and len(series.recent) > 1:
            yield f"{name} rose", _rose(name, entry, series)


def _outside_range(name: str, entry: MetricInfo, series: _Series) -> _Breach | None:
    assert entry.healthy is not None
    lowest, highest = entry.healthy
    if series.once:
        value, count = series.recent[-1], 1
        margin = 0.1 * (highest - lowest) if lowest is not None and highest is not None else 0.0
    else:
        value, count = series.mean, len(series.recent)
        margin = series.chance()
    distance = _beyond(value, lowest, highest)
    limit = (lowest if lowest is not None and value < lowest else highest) or 1.0
    critical = entry.critical is not None and _beyond(value, *entry.critical) > 0.0
    if not series.once and count < (_LEAST_CRITICAL if critical else _LEAST):
        return None
    if distance <= max(margin, 0.02 * abs(limit)):
        return None
    of_what = "" if count == 1 else f", mean of the last {count} values"
    text = f"{name} is {_shown(value, entry)} (healthy: {_range_shown(entry)}{of_what}): {entry.definition.split('. ')[0].rstrip('.')}"
    return _Breach(name, name, "critical" if critical else "warning", text, entry.remedy, value, distance)


def _drifted(name: str, entry: MetricInfo, series: _Series) -> _Breach | None:
    """Medians: a gradient's norm has outliers. Since half of the values are as large, chance hardly matters."""
    assert entry.drift is not None
    first, now = statistics.median(series.first), statistics.median(list(series.recent)[-series.later :])
    if not first or first * now < 0:
        return None
    ratio = now / first
    distance = _beyond(ratio, *entry.drift)
    if not distance:
        return None
    text = f"{name} is {now:.3g}, {ratio:.2g} times its {first:.3g} at the start of the run (healthy: {range_text(entry.drift)} times)"
    return _Breach(f"{name} drift", name, "warning", text, entry.remedy, now, distance)


def _far_per_token(name: str, series: _Series, length: float) -> _Breach | None:
    """``kl`` and ``kl_previous`` are sums over a response, so that a limit for every run must be one per token. Early: few values count."""
    nats, (warns, critical) = statistics.median(list(series.recent)[-_LEAST:]), _KL_PER_TOKEN
    value = nats / max(length, 1.0)
    if value <= warns:
        return None
    text = f"{name} is {nats:.3g} nats per response, {value:.2g} per token (healthy: at most {warns:g}): the policy is running away"
    remedy = (
        "Lower learner.optimizer.lr, take fewer steps per iteration, or strengthen the pull to the frozen policy (beta, tau, regulariser)."
    )
    return _Breach(f"{name} per token", name, "critical" if value > critical else "warning", text, remedy, nats, value - warns)


def _all_clipped(entry: MetricInfo, series: _Series, limit: float) -> _Breach | None:
    if min(series.recent) <= limit:
        return None
    median = statistics.median(series.recent)
    text = f"each of the last {_RECENT} gradients was clipped: median norm {median:.3g}, learner.max_grad_norm {limit:g}"
    return _Breach("grad_norm clipped", "grad_norm", "note", text, entry.remedy, median, 0.0)


def _fallen(name: str, value: float, best: float) -> _Breach | None:
    if best - value <= _FALL_OF_WIN_RATE:
        return None
    text = f"{name} has fallen to {value:.3f} from {best:.3f} at its best: the policy gets worse again"
    remedy = "Use the best iteration's policy (raypref evaluate best), and stop earlier; see kl and rollout/response_tokens for the cause."
    return _Breach(f"{name} fell", name, "warning", text, remedy, value, best - value)


def _rose(name: str, entry: MetricInfo, series: _Series) -> _Breach | None:
    first, value = series.first[0], series.recent[-1]
    if value - first <= _RISE_OF_HELD_OUT_LOSS * abs(first):
        return None
    text = f"{name} is {value:.4g}, above the {first:.4g} before training: what is learned does not carry over to the held-out examples"
    return _Breach(f"{name} rose", name, "warning", text, entry.remedy, value, value - first)


def _beyond(value: float, lowest: float | None, highest: float | None) -> float:
    """How far a value lies outside a range; 0 within it."""
    below = 0.0 if lowest is None else lowest - value
    above = 0.0 if highest is None else value - highest
    return max(0.0, below, above)


def _shown(value: float, entry: MetricInfo) -> str:
    return f"{value:.0%}" if entry.unit == "share" else f"{value:.3g}"


def _range_shown(entry: MetricInfo) -> str:
    lowest, highest = entry.healthy or (None, None)
    if entry.unit == "share" and highest is not None:
        return f"at least {lowest:.0%}" if lowest and highest == 1 else f"at most {highest:.0%}"
    return entry.healthy_text
