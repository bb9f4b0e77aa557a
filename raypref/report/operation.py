"""Sections of the report: weight syncs, time by stage, failures."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from raypref.report.curves import RESTARTS, SYNC, Curves, plots_of
from raypref.report.oracle import chosen
from raypref.report.parts import Block, Note, Section, Table, seconds_shown
from raypref.report.plots import bars, spans
from raypref.report.run_directory import RunDirectory
from raypref.report.timeline import read_timeline

STAGES = ("rollout", "judge", "reference", "train", "sync", "evaluate", "checkpoint", "regulariser", "load")
ROLES = {"rollout": "engines", "judge": "oracle", "reference": "reference actors", "train": "learner"}
"""Stage -> who works in it."""
MOST_ITERATIONS = 12
LOG_BYTES = 1 << 20
"""Bytes at the end of a log that are searched for warnings."""
MOST_WARNINGS = 20


def sync(run: RunDirectory) -> Section:
    """Whether the engines hold what the learner has trained."""
    differences = run.series("sync/logprob_difference_max")
    if not differences:
        missing = "No weight sync was checked so far; a run on given data without engines has none, and sync.check: false turns it off."
        return Section("sync", "Weight sync", blocks=[Note(missing)])
    transport, tolerance = run.setting("sync.transport"), run.setting("sync.tolerance")
    limit = f"{tolerance:g} nats" if isinstance(tolerance, float) else "1e-4 nats for the largest in float32, 0.05 for the mean in bfloat16"
    intro = (
        f"{len(differences.steps)} syncs (transport {transport}), each checked by checksums and by log-probs of the same tokens; "
        f"the run stops above {limit}. Largest difference: {max(differences.values):.2e} nats."
    )
    return Section("sync", "Weight sync", intro, [*plots_of(run, SYNC)])


def bottleneck(run: RunDirectory) -> tuple[str, float] | None:
    """The stage that was under way for the largest share of the finished iterations' time, and that share."""
    total = math.fsum(run.series("time/iteration_s").values)
    shares = {stage: math.fsum(run.series(f"time/{stage}_s").values) / total for stage in STAGES if total > 0}
    stage = max(shares, key=lambda name: shares[name], default=None)
    return (stage, shares[stage]) if stage is not None and shares[stage] > 0 else None


def timing(run: RunDirectory) -> Section:
    """Seconds by stage and iteration, and who worked when."""
    blocks: list[Block] = []
    busiest = bottleneck(run)
    intro = f"{seconds_shown(run.run_s)} in all. Stages overlap, so that they may add up to more than the iteration."
    if busiest is not None:
        stage, share = busiest
        advice = f": more or faster {ROLES[stage]} would shorten it most" if stage in ROLES else ""
        intro += f" Bottleneck: {stage}, under way for {share:.0%} of the iterations' time{advice}."
    intro += _waiting(run)
    if timeline := read_timeline(run.path):
        rows_of_stages = {f"{stage} ({ROLES[stage]})" if stage in ROLES else stage: timeline[stage] for stage in _in_order(timeline)}
        blocks.append(spans("Which stage worked when", rows_of_stages, "s", margin={"l": 170}))
    count = len(run.iteration_ends)
    if count:
        numbers = chosen(count, MOST_ITERATIONS)
        names = [name for name in ("iteration", *STAGES) if run.series(f"time/{name}_s")]
        values = {name: _at_ends(run, f"time/{name}_s") for name in names}
        labels = [f"iteration {number}" for number in numbers]
        stages = {name: [values[name][number - 1] for number in numbers] for name in names}
        blocks.append(bars("Seconds by stage", stages, labels, "s"))
        rates = {"sampled": "tokens_per_second_per_gpu/sampled", "trained": "tokens_per_second_per_gpu/trained"}
        known = {name: _at_ends(run, metric) for name, metric in rates.items() if run.series(metric)}
        if known:
            throughput = {name: [series[number - 1] for number in numbers] for name, series in known.items()}
            blocks.append(bars("Tokens per second and GPU", throughput, labels, "tokens/s"))
        rows = [[name, *(f"{values[name][number - 1]:.1f}" for number in numbers)] for name in names]
        blocks.append(Table("Seconds by stage", ("stage", *labels), rows, folded=True))
    if run.summary is not None:
        start = run.summary.get("seconds", {}).get("start")
        blocks.append(Note(f"Starting the actors took {seconds_shown(start)}.")) if start is not None else None
    if not blocks:
        blocks.append(Note("No iteration has been finished so far."))
    return Section("time", "Time", intro, blocks)


def _in_order(stages: Iterable[str]) -> list[str]:
    """The stages that a group goes through first, then the others."""
    return sorted(stages, key=lambda stage: (STAGES.index(stage) if stage in STAGES else len(STAGES), stage))


def _waiting(run: RunDirectory) -> str:
    """The share of the newest iteration in which each role had no call."""
    shares = {entry.name.removeprefix("waiting/"): entry.last for entry in run.under("waiting/")}
    if not shares:
        return ""
    return " Without work in the newest iteration: " + ", ".join(f"{role} {share:.0%}" for role, share in shares.items()) + "."


def _at_ends(run: RunDirectory, name: str) -> list[float]:
    """The value at the end of each finished iteration; NaN where there is none."""
    series = run.series(name)
    at = dict(zip(series.steps, series.values, strict=True))
    return [at.get(end, math.nan) for end in run.iteration_ends]


def failures(run: RunDirectory) -> Section:
    """What went wrong and was survived, and what the logs warn of."""
    blocks: list[Block] = []
    summary = run.summary or {}
    if run.resumptions:
        times = "once" if run.resumptions == 1 else f"{run.resumptions} times"
        blocks.append(Note(f"The run was resumed {times}, by the clock of its metrics.", "warning"))
    if restarts := [[entry["time"], entry["after"]] for entry in summary.get("restarts", [])]:
        blocks.append(Table("Restarts after a failure", ("time", "after"), restarts, texts=True))
    for entries, title, names in (
        (summary.get("replacements", []), "Actors that were replaced", ("time", "actor", "step", "reason")),
        (run.set_aside, "Prompts that were set aside", ("time", "prompt", "step", "reason")),
    ):
        rows = [[str(entry.get(name, "")) for name in names] for entry in entries]
        blocks += [Table(title, names, rows, texts=True)] if rows else []
    roles = {entry.name.removeprefix("failures/"): entry.name for entry in run.under("failures/")}
    blocks += plots_of(run, [Curves(RESTARTS.title, RESTARTS.unit, roles, RESTARTS.caption, RESTARTS.axis)])
    if saved := sorted((run.path / "failures").glob("*")):
        blocks.append(Note(f"A batch whose loss was not finite was written to {', '.join(str(path) for path in saved)}.", "critical"))
    left_out = {reason: count for reason, count in summary.get("records_left_out", {}).items() if count}
    if left_out:
        blocks.append(Note("Records left out: " + ", ".join(f"{count} {reason}" for reason, count in left_out.items()) + "."))
    if warnings := log_warnings(run.path / "logs"):
        rows_of_logs = [[log, str(count), line] for (log, line), count in warnings]
        blocks.append(Table("Warnings and errors in the logs", ("log", "times", "line"), rows_of_logs, texts=True, folded=True))
    blocks += [Note(problem, "warning") for problem in run.problems]
    if not blocks:
        blocks.append(Note("Nothing failed, nothing was restarted, and the logs have no warning.", "good"))
    return Section("failures", "Failures and warnings", blocks=blocks)


def log_warnings(logs: Path) -> list[tuple[tuple[str, str], int]]:
    """((log, line from its level on), how often) of the lines that are warnings or errors, the most frequent first."""
    counts: Counter[tuple[str, str]] = Counter()
    for path in sorted(logs.glob("*.log")):
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - LOG_BYTES))
            lines = file.read().decode("utf-8", errors="replace").splitlines()
        for line in lines:
            words = line.split()
            level = next((word for word in ("ERROR", "CRITICAL", "WARNING") if word in words[:6]), None)
            if level is not None:
                counts[path.stem, line[line.index(level) :][:300]] += 1
    return counts.most_common(MOST_WARNINGS)
