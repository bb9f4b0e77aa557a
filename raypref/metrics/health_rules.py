"""The rules by which ``raypref.metrics.health`` judges a run: what is beyond its limit, by how much, and what to do.

A rule is a function of the values of one metric, and of a few others. It gives a ``Breach``, or None where the limit is kept.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from dataclasses import dataclass, field
from typing import Literal

from raypref.metric_info import MetricInfo, range_text

Severity = Literal["note", "warning", "critical"]
"""note: worth knowing, normal for some runs; warning: outside its healthy range; critical: the run is hardly worth its cost."""

RANKS: dict[str, int] = {"note": 0, "warning": 1, "critical": 2}
RECENT = 20
"""Values that a judgement rests on: the last ones."""
LEAST, LEAST_CRITICAL = 5, 3
"""Values that it takes at least, for a warning and where all are critical."""
_FIRST = 10
"""Values at the start of the run that later ones are compared with."""
_KL_PER_TOKEN = (0.3, 1.0)
"""Nats per response token between two policies, as warning and as critical; healthy runs of the papers' recipes stay below 0.1."""
_FALL_OF_WIN_RATE = 0.05
"""Below the best evaluation so far."""
_GROWTH = 1.1
"""Of the mean length from one evaluation to the next."""
_RISE_OF_HELD_OUT_LOSS = 0.05
"""Relative to the loss before training."""


@dataclass(slots=True)
class Series:
    """The values of one metric."""

    once: bool
    """Whether a value stands for itself: one evaluation, one iteration. Otherwise it is one of many steps."""
    first: list[float] = field(default_factory=list)
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))
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

    @property
    def late(self) -> float:
        """The median of the last few values."""
        return statistics.median(list(self.recent)[-LEAST:])

    def chance(self) -> float:
        """By how much the mean may be off by chance: 4 to 7 standard errors, more for fewer values; it is looked at at every step."""
        count, mean = len(self.recent), self.mean
        squares = sum((value - mean) ** 2 for value in self.recent)
        return 0.0 if count < 2 else (4 + 10 / count) * math.sqrt(squares / (count - 1) / count)


@dataclass(frozen=True, slots=True)
class Breach:
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


def outside_range(name: str, entry: MetricInfo, series: Series) -> Breach | None:
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
    if not series.once and count < (LEAST_CRITICAL if critical else LEAST):
        return None
    if distance <= max(margin, 0.02 * abs(limit)):
        return None
    of_what = "" if count == 1 else f", mean of the last {count} values"
    text = f"{name} is {_shown(value, entry)} (healthy: {_range_shown(entry)}{of_what}): {entry.definition.split('. ')[0].rstrip('.')}"
    return Breach(name, name, "critical" if critical else "warning", text, entry.remedy, value, distance)


def drifted(name: str, entry: MetricInfo, series: Series) -> Breach | None:
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
    return Breach(f"{name} drift", name, "warning", text, entry.remedy, now, distance)


def far_per_token(name: str, series: Series, length: float) -> Breach | None:
    """``kl`` and ``kl_previous`` are sums over a response, so that a limit for every run must be one per token. Early: few values count."""
    nats, (warns, critical) = series.late, _KL_PER_TOKEN
    value = nats / max(length, 1.0)
    if value <= warns:
        return None
    text = f"{name} is {nats:.3g} nats per response, {value:.2g} per token (healthy: at most {warns:g}): the policy is running away"
    remedy = (
        "Lower learner.optimizer.lr, take fewer steps per iteration, or strengthen the pull to the frozen policy (beta, tau, regulariser)."
    )
    return Breach(f"{name} per token", name, "critical" if value > critical else "warning", text, remedy, nats, value - warns)


def all_clipped(entry: MetricInfo, series: Series, limit: float) -> Breach | None:
    if min(series.recent) <= limit:
        return None
    median = statistics.median(series.recent)
    text = f"each of the last {RECENT} gradients was clipped: median norm {median:.3g}, learner.max_grad_norm {limit:g}"
    return Breach("grad_norm clipped", "grad_norm", "note", text, entry.remedy, median, 0.0)


def fallen(name: str, value: float, best: float) -> Breach | None:
    if best - value <= _FALL_OF_WIN_RATE:
        return None
    text = f"{name} has fallen to {value:.3f} from {best:.3f} at its best: the policy gets worse again"
    remedy = "Use the best iteration's policy (raypref evaluate best), and stop earlier; see kl and rollout/response_tokens for the cause."
    return Breach(f"{name} fell", name, "warning", text, remedy, value, best - value)


def longer_without_gain(name: str, before: float, now: float, won: float) -> Breach | None:
    """Responses that grow by a tenth from one evaluation to the next, and do not win against the shorter ones."""
    if now <= _GROWTH * before or won > 0.5:
        return None
    text = f"{name} has grown from {before:.0f} to {now:.0f} since the evaluation before, and the win rate against that policy is {won:.3f}"
    remedy = "The policy gets longer, not better: use a length-controlled oracle, or a loss with a length term (r_dpo, simpo)."
    return Breach(f"{name} without gain", name, "warning", text, remedy, now, now / before - _GROWTH)


def further_without_gain(kl: float, kl_at_best: float, rate: float, best: float) -> Breach | None:
    """A policy that moves away from pi_ref by half as much again, and by a nat, while its win rate stays below its best."""
    if kl <= 1.5 * kl_at_best or kl - kl_at_best <= 1.0 or rate > best - 0.01:
        return None
    text = f"kl has grown from {kl_at_best:.3g} to {kl:.3g} nats per response since the best win rate, {best:.3f}, which is {rate:.3f} now"
    remedy = "The policy exploits the oracle: stop earlier (raypref evaluate best), or hold it closer to pi_ref (beta, tau, regulariser)."
    return Breach("kl without gain", "kl", "warning", text, remedy, kl, kl - kl_at_best)


def rose(name: str, entry: MetricInfo, series: Series) -> Breach | None:
    first, value = series.first[0], series.recent[-1]
    if value - first <= _RISE_OF_HELD_OUT_LOSS * abs(first):
        return None
    text = f"{name} is {value:.4g}, above the {first:.4g} before training: what is learned does not carry over to the held-out examples"
    return Breach(f"{name} rose", name, "warning", text, entry.remedy, value, value - first)


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
