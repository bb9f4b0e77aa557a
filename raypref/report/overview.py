"""A run in a few lines of text."""

from __future__ import annotations

from collections.abc import Iterator

from raypref.output.terminal import counted
from raypref.report.completeness import gaps
from raypref.report.run_directory import RunDirectory


def overview(run: RunDirectory) -> Iterator[str]:
    """What the run is, how far it is, and its newest win rate."""
    loss, data = run.setting("loss.type", "?"), run.setting("data.path") or "objects given from Python"
    yield f"{run.setting('name')}: loss {loss}, policy {run.setting('policy.path')}, data {data}"
    planned = "" if run.iterations is None else f" of {run.iterations}"
    yield f"{run.state}: {run.finished_iterations}{planned} iterations finished, {counted(run.steps, 'step')}, {run.run_s:.0f} s"
    for evaluation in run.against("base")[-1:]:
        rate = evaluation.win_rate
        yield (
            f"win rate against base after iteration {evaluation.iteration}: {rate.win_rate:.3f} [{rate.low:.3f}, {rate.high:.3f}] "
            f"on {counted(rate.prompts, 'prompt')}"
        )
    missing = gaps(run)
    yield from (f"note: {problem}" for problem in (*missing, *run.problems))
