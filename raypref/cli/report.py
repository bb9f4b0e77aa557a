"""``raypref report``: the report of a run as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    run: Annotated[Path, typer.Argument(help="The output_dir of a run, which may still go on.")],
    output: Annotated[Path | None, typer.Option(help="The HTML file to write; default: RUN/report.html.")] = None,
) -> None:
    """Write one HTML file that says what became of a run: verdict, win rates, curves, oracle, samples, time, failures."""
    from raypref.output.targets import check_file
    from raypref.output.terminal import visible
    from raypref.report.page import write_report
    from raypref.report.run_directory import RunDirectory

    directory = RunDirectory(run)
    target = output or run / "report.html"
    check_file("--output", target, {f"the run's {name}": run / name for name in ("config.yaml", "metrics.jsonl", "summary.json")})
    verdict = write_report(directory, target)
    typer.echo(visible(verdict.headline))
    typer.echo(visible(target))
