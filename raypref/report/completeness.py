"""What the verdict on a run could not be made from: files that are missing, empty, cut off or damaged, though the run wrote them."""

from __future__ import annotations

from collections.abc import Iterator

from raypref.output.capability import of_run
from raypref.output.numbered import iteration_name, number_in
from raypref.output.terminal import counted
from raypref.report.run_directory import RunDirectory

_SHOWN = 3
"""Evaluations that a sentence names."""


def gaps(run: RunDirectory) -> tuple[str, ...]:
    """One sentence per kind of figure that cannot be judged, or only in part; none of a run that is whole as far as it has come."""
    return (*_settings(run), *health_gaps(run), *win_rate_gaps(run), *_held_out_loss(run), *_end(run), *of_run(run.path)[1])


def health_gaps(run: RunDirectory) -> Iterator[str]:
    """What ``metrics.jsonl`` lacks."""
    path, lines = run.path / "metrics.jsonl", run.metric_lines
    if not run.metrics:
        if _has_trained(run):
            how = "is missing" if not path.exists() else "is empty" if not path.stat().st_size else "holds no line that can be read"
            yield f"Health cannot be judged: metrics.jsonl {how}."
        return
    lacking = run.steps - len({row["step"] for row in run.metrics} & set(range(1, run.steps + 1)))
    damaged = len(lines.damaged) + (lines.torn and run.state == "finished")  # a run that was killed may have been writing
    found = [f"lacks {lacking} of {counted(run.steps, 'step')}"] if lacking else []
    found += [f"has {counted(damaged, 'damaged line')}"] if damaged else []
    if found:
        yield f"Health was judged from a part of the run: metrics.jsonl {' and '.join(found)}."


def win_rate_gaps(run: RunDirectory) -> Iterator[str]:
    """Evaluations against the base policy that the run made, and that are not there or not whole."""
    known = {entry.iteration: len(entry.rows) for entry in run.against("base")}
    written = [(entry["iteration"], entry["base"]) for entry in (run.summary or {}).get("evaluations", []) if "base" in entry]
    expected = {iteration: rate["prompts"] + rate["unanswered"] for iteration, rate in written} or dict.fromkeys(
        known, max(known.values(), default=0)
    )
    there = {number_in(path.name) or 0: path for path in (run.path / "evaluation").glob("iteration_*_against_base.jsonl")}
    wrong = {}
    for iteration in sorted({*expected, *there}):
        name = f"evaluation/{iteration_name(iteration)}_against_base.jsonl"
        if iteration not in there:
            wrong[iteration] = f"{name} is missing"
        elif iteration not in known:
            wrong[iteration] = f"{name} cannot be read ({run.unreadable.get(name, 'it names another iteration')})"
        elif known[iteration] != expected.get(iteration, known[iteration]):
            wrong[iteration] = f"{name} has {known[iteration]} of {counted(expected[iteration], 'prompt')}"
    if wrong:
        more = f", and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        which = ", ".join(list(reversed(wrong.values()))[:_SHOWN])
        yield f"The win rate after iteration {', '.join(map(str, wrong))} cannot be judged: {which}{more}."
    reported = len(run.series("eval/win_rate_against_base").steps)
    if not written and len(there) < reported:
        yield (
            f"Not every win rate can be judged: evaluation/ has {len(there)} of the {counted(reported, 'evaluation')} against the base "
            "policy that metrics.jsonl reports."
        )


def _settings(run: RunDirectory) -> Iterator[str]:
    if not (run.path / "config.yaml").read_bytes().endswith(b"\n"):
        yield "The settings are not all known: config.yaml is cut off, and defaults stand in place of what it lacks."


def _held_out_loss(run: RunDirectory) -> Iterator[str]:
    if not run.held_out:
        for name in (name for name in run.unreadable if name.startswith("checkpoints/")):
            yield f"The loss on held-out examples cannot be judged: {name} cannot be read ({run.unreadable[name]})."


def _end(run: RunDirectory) -> Iterator[str]:
    if run.summary is None and "summary.json" in run.unreadable:
        yield f"Whether the run has finished is not known: summary.json cannot be read ({run.unreadable['summary.json']})."


def _has_trained(run: RunDirectory) -> bool:
    """Whether anything but the metrics shows that steps were taken."""
    signs = ("summary.json", "evaluation/iteration_*_against_*.jsonl", "checkpoints/*/state.json")
    return any(next(run.path.glob(sign), None) is not None for sign in signs)
