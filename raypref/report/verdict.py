"""The first lines of a report: is the policy better than the base, what became of length, KL and entropy, what is not as it should be."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from raypref.metrics.health import Finding, findings, lasting
from raypref.metrics.table import MetricTable
from raypref.output.capability import BASE, compared, of_run, remarks
from raypref.output.terminal import counted
from raypref.report.completeness import gaps, win_rate_gaps
from raypref.report.evaluations import length_controlled, rates
from raypref.report.parts import Level, shown
from raypref.report.run_directory import RunDirectory


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a reader must know first."""

    level: Level
    headline: str
    facts: tuple[str, ...]
    """One sentence each."""
    findings: tuple[Finding, ...]
    """What is still the matter, the worst first, then what was the matter for a time."""


def verdict(run: RunDirectory) -> Verdict:
    """The verdict on a run, as far as it has come."""
    found = health(run)
    critical = [finding for finding in found if finding.severity == "critical"]
    warned = [finding for finding in found if finding.severity == "warning"]
    level, headline = _against_base(run)
    level, headline = _capability(run, level, headline)
    if missing := gaps(run):
        level = "critical" if level == "critical" else "warning"
        headline = " ".join([headline, *(gap for gap in missing if gap not in headline)])
    facts = [*_best(run), *_length(run), *_divergence(run), *_entropy(run), *_course(run)]
    if critical:
        subjects = ", ".join(dict.fromkeys(finding.metric for finding in critical))
        headline = f"Sick run: {subjects} far outside the healthy range. {headline}"
        return Verdict("critical", headline, tuple(facts), found)
    if warned:
        subjects = ", ".join(dict.fromkeys(finding.metric for finding in warned))
        level = "critical" if level == "critical" else "warning"
        headline = f"{headline} Outside the healthy range: {subjects}."
    return Verdict(level, headline, tuple(facts), found)


def health(run: RunDirectory) -> tuple[Finding, ...]:
    """The findings of the run's metrics (``raypref.metrics.health``): those that last, the worst first, then those that were passing.

    Each metric comes once, with the worst that was found of it.
    """
    table = MetricTable() if run.config is None else MetricTable.of(run.config)
    limit = float(run.setting("learner.max_grad_norm", 0.0) or 0.0)
    still, ever = lasting(run.metrics, table, limit), findings(run.metrics, table, limit)
    ranks = {"critical": 0, "warning": 1, "note": 2}
    kept: dict[str, Finding] = {}
    for finding in sorted((*still, *ever), key=lambda finding: ranks[finding.severity]):
        kept.setdefault(finding.metric, finding)
    return tuple(kept.values())


def _against_base(run: RunDirectory) -> tuple[Level, str]:
    against = run.against("base")
    if not against:
        return "plain", _without_win_rate(run)
    newest = against[-1]
    rate = newest.win_rate
    interval = f"{rate.win_rate:.3f} [{rate.low:.3f}, {rate.high:.3f}]"
    where = (
        f"win rate {interval} on {counted(rate.prompts, 'held-out prompt')} after iteration {newest.iteration}, under the run's own oracle"
    )
    level: Level
    if rate.low > 0.5:
        level, what = "good", "Better than the base policy"
    elif rate.high < 0.5:
        level, what = "critical", "Worse than the base policy"
    else:
        level, what = "plain", "Not distinguishable from the base policy"
    text = f"{what}: {where}"
    controlled = length_controlled(against, run.interval)
    fitted = controlled.get(newest.iteration) if isinstance(controlled, dict) else None
    if fitted is not None:
        text += f"; at equal lengths {fitted.win_rate:.3f} [{fitted.low:.3f}, {fitted.high:.3f}]"
        if level == "good" and fitted.low <= 0.5:
            return "warning", f"{text}. The gain may be length alone."
    return level, f"{text}."


def _capability(run: RunDirectory, level: Level, headline: str) -> tuple[Level, str]:
    """What ``raypref capability`` has measured of the base policy and of the newest one, beside the win rate."""
    measured, _ = of_run(run.path)
    if len(measured) < 2 or measured[0].policy != BASE:
        return level, headline
    now = measured[-1]
    lost = remarks(measured, rates(run.against("base"))).get(now.policy)
    if lost is not None:
        return "warning" if level == "good" else level, f"{headline} {lost}"
    tasks = compared(measured[0], now)
    return level, f"{headline} No capability that was measured has fallen ({', '.join(tasks)}, {now.policy})." if tasks else headline


def _without_win_rate(run: RunDirectory) -> str:
    if len(run.held_out) > 1:
        measures = {"loss": "loss on held-out examples", "text_nll": "negative log-likelihood per token of held-out texts"}
        name, what = next((name, what) for name, what in measures.items() if name in run.held_out[0])
        first, last = run.held_out[0][name], run.held_out[-1][name]
        change = "fell" if last < first else "rose"
        return f"The {what} {change} from {first:.4g} to {last:.4g}; no win rate was measured."
    if lost := list(win_rate_gaps(run)):
        return f"Whether the policy is better is not known. {lost[0]}"
    if not run.steps:
        return "No optimiser step was taken yet."
    return "Whether the policy is better is not known: there is no evaluation yet, or no held-out data (data.held_out)."


def _length(run: RunDirectory) -> Iterator[str]:
    against = run.against("base")
    if against:
        before, now = against[-1].opponent_tokens, against[-1].tokens
        change = f" ({now / before - 1:+.0%})" if before else ""
        yield f"Held-out responses: {before:.1f} tokens of the base policy, {now:.1f} now{change}."
    truncated = run.series("rollout/truncated")
    if truncated:
        share = run.by_iteration("rollout/truncated")[-1]
        share = truncated.last if math.isnan(share) else share
        yield f"Cut off at rollout.max_tokens in the newest iteration: {share:.1%} of the responses."


def _divergence(run: RunDirectory) -> Iterator[str]:
    for name, whom in (("kl", "the reference policy"), ("kl_previous", "the policy that samples")):
        series = run.series(name)
        if series:
            per_response = series.between(*_newest_tenth(run)).mean
            yield f"KL to {whom} at the end ({name}): {shown(per_response)} nats per response."
            return


def _newest_tenth(run: RunDirectory) -> tuple[int, int]:
    first, last = run.steps_of(max(1, run.begun_iterations))
    return max(first, last - max(4, (last - first) // 10)), last


def _entropy(run: RunDirectory) -> Iterator[str]:
    values = [value for value in run.by_iteration("entropy") if not math.isnan(value)]
    if len(values) > 1:
        yield f"Entropy of the policy per token: {shown(values[0])} nats in the first iteration, {shown(values[-1])} in the newest."


def _best(run: RunDirectory) -> Iterator[str]:
    """Which evaluated policy has the highest win rate, where that is not the newest."""
    against = run.against("base")
    best = max(against, key=lambda entry: entry.win_rate.win_rate, default=None)
    if best is not None and best is not against[-1]:
        highest = f"{best.win_rate.win_rate:.3f}, after iteration {best.iteration}"
        yield f"The highest of {len(against)} win rates against the base policy: {highest}."


def _course(run: RunDirectory) -> Iterator[str]:
    planned = run.iterations
    if run.state == "finished":
        return
    if "summary.json" in run.unreadable:
        return  # the headline says so
    done = run.finished_iterations
    how = "The run still goes on" if run.state == "running" else "The run has not finished"
    end = ", but summary.json is missing" if done == planned and run.state == "stopped" else ""
    yield f"{how}: {done} of {planned if planned else '?'} iterations, {counted(run.steps, 'step')}{end}."
