"""``raypref capability``: the tasks of lm-eval on a policy, beside those that were measured before."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from raypref.cli.options import Overrides
from raypref.output.terminal import print_table, visible


def capability(
    config: Annotated[Path, typer.Argument(help="A run and an iteration (runs/x@2, runs/x@base), or a run's YAML file: its policy.")],
    overrides: Overrides = None,
    *,
    tasks: Annotated[list[str], typer.Option(help="leaderboard, or a task of lm-eval; gsm8k:8 has 8 examples in the prompt.")],
    output: Annotated[Path | None, typer.Option(help="Directory of the figures. Default: capability/ of the run.")] = None,
    include_path: Annotated[Path | None, typer.Option(help="A directory of further tasks (lm-eval's YAML files).")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Records of each task. Default: all.")] = None,
    gpus: Annotated[str | None, typer.Option(help="CUDA_VISIBLE_DEVICES of the engine.")] = None,
) -> None:
    """Measure what a policy can still do, with lm-eval on vLLM, and compare it with the policies measured before."""
    from raypref.cli.arguments import run_config
    from raypref.errors import ConfigError
    from raypref.evaluation.capability.measure import Measurement, measure
    from raypref.evaluation.capability.tasks import read_tasks
    from raypref.output.capability import LAST, read_all, remarks, table
    from raypref.output.run_reference import RunReference
    from raypref.output.summary import add_capability
    from raypref.output.targets import check_directory, check_file
    from raypref.report.evaluations import rates
    from raypref.report.run_directory import RunDirectory

    settings, run = run_config(config, overrides or []), RunReference.read(str(config))
    if run is None and output is None:
        raise ConfigError("--output: needed for a policy that belongs to no run; give a directory")
    if run is not None and str(settings.policy.path) != run.policy():
        raise ConfigError(f"policy.path: {settings.policy.path} is not the policy of {config}; for another one give a config and --output")
    directory = output or (run.directory / "capability" if run else Path())
    if include_path is not None and not include_path.is_dir():
        raise ConfigError(f"--include-path: {include_path} is no directory (looked in {Path.cwd()})")
    measurement = Measurement.of(settings, read_tasks(tasks), include_path=include_path, limit=limit, gpus=gpus)
    name = LAST if run is None else run.policy_name
    check_directory("--output", directory)
    check_file("--output", directory / f"{name}.json")
    read_all(directory)  # refuses a damaged file before the policy is measured
    if run is not None:
        add_capability(run.directory)  # likewise a damaged summary
    measure(measurement, name, str(settings.policy.path), directory)
    measured, won = read_all(directory), {} if run is None else rates(RunDirectory(run.directory).against("base"))
    print_table(table(measured, won))
    if lost := remarks(measured, won).get(name):
        typer.echo(visible(lost))
    if run is not None:
        add_capability(run.directory)
    typer.echo(visible(directory / f"{name}.json"))
