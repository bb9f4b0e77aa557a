"""``raypref sweep``: one run for each combination of settings, and then the choice among them by win rates on held-out prompts."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from raypref.cli.job_client import Address
from raypref.cli.options import Inputs, RunFile
from raypref.errors import ConfigError, Problem, RunFailed, refuse
from raypref.output.terminal import counted, visible


def sweep(
    config: RunFile,
    overrides: Annotated[
        list[str],
        typer.Argument(help="section.key=value for all runs; section.key=value,value,... for a run per value and combination."),
    ],
    output: Annotated[Path, typer.Option(help="Directory of the runs, one folder each, and of best.json.")],
    against: Annotated[
        str | None, typer.Option(help="A common opponent for the choice: NAME=FILE, FILE, or runs/x@2. Default: all meet each other.")
    ] = None,
    every: Annotated[bool, typer.Option("--every", help="Choose among all evaluated iterations, not the last ones alone.")] = False,
    submit: Annotated[bool, typer.Option("--submit", help="Run all at the same time, as jobs of a Ray cluster.")] = False,
    address: Address = None,
) -> None:
    """Train once for each combination of settings, and choose the best by win rates on held-out prompts: best.json.

    The runs follow one another. A run that is finished is not repeated, and one that was interrupted goes on: the same command continues.
    """
    runs = runs_of(output, overrides)
    for run in runs:
        run.check(config)
    _check_choice(config, runs, output)
    if against is not None:
        _check_opponent(against, runs)
    typer.echo(f"{counted(len(runs), 'run')}: {', '.join(visible(run.directory.name) for run in runs)}")
    todo = [run for run in runs if not (run.directory / "summary.json").exists()]
    if submit:
        _submit_all(config, todo, address)
    else:
        for run in todo:
            typer.echo(f"run {visible(run.directory.name)}")
            _refuse_failure(run, subprocess.call(run.command("train", config)))
    _choose(config, runs, output, against, every=every)


@dataclass(frozen=True, slots=True)
class SweptRun:
    """One run of a sweep."""

    directory: Path
    overrides: tuple[str, ...]

    def check(self, config: Path) -> None:
        """Refuse what the run would be refused for.

        Raises:
            ConfigError: naming the run.
        """
        from raypref.checks import Task, check, evaluates
        from raypref.config import load_config

        try:
            settings = load_config(config, self.overrides)
            problems = check(settings)
            if not problems and not evaluates(settings, Task()):
                remedy = "give data.held_out or data.held_out_prompts, an oracle, and evaluation.every above 0"
                problems = [Problem("evaluation", None, "a sweep chooses by win rates on held-out prompts, and this run has none", remedy)]
            refuse(problems)
        except ConfigError as error:
            raise ConfigError(f"run {self.directory.name}: {error}") from error

    def command(self, verb: str, config: Path, *more: str) -> list[str]:
        """The command that begins the run, or continues it."""
        from raypref.cli.supervision import raypref_command

        return [*raypref_command(), verb, str(config), *self.overrides, "--resume=auto", *more]


def runs_of(output: Path, overrides: Sequence[str]) -> list[SweptRun]:
    """A run for each combination of the values.

    Args:
        output: each run's directory is in it, named by the values that differ between runs.
        overrides: ``key=value``, or ``key=value,value``; commas within brackets, braces and quotes belong to a value.

    Raises:
        ConfigError: an override is malformed, sets ``output_dir``, or gives a value twice.
    """
    choices: list[list[tuple[str, str]]] = []
    for override in overrides:
        key, equals, text = override.partition("=")
        values = split_values(text)
        if not equals or not all(values) or key in ("output_dir", "name"):
            why = "the runs have directories of their own in --output" if key in ("output_dir", "name") else "expected key=value,value,..."
            raise ConfigError(f"{override!r}: {why}")
        if len(set(values)) < len(values):
            raise ConfigError(f"{override!r}: gives a value twice")
        choices.append([(key, value) for value in values])
    varied = {key for values in choices if len(values) > 1 for key, _ in values}
    runs = []
    for combination in itertools.product(*choices):
        name = ",".join(f"{key.rpartition('.')[2]}={value.replace('/', '_')}" for key, value in combination if key in varied) or "run"
        settings = [f"{key}={value}" for key, value in combination]
        runs.append(SweptRun(output / name, (*settings, f"output_dir={output / name}", f"name={output.name}")))
    return [SweptRun(run.directory, tuple(_quoted(override) for override in run.overrides)) for run in runs]


def split_values(text: str) -> list[str]:
    """``1,[2,3],"a,b"`` as ``1``, ``[2,3]`` and ``"a,b"``."""
    values, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        elif letter in "[{":
            depth += 1
        elif letter in "]}":
            depth -= 1
        elif letter == "," and not depth:
            values.append("")
            continue
        values[-1] += letter
    return values


def _quoted(override: str) -> str:
    """A path with commas and equals signs is a text to YAML."""
    key, _, value = override.partition("=")
    return f'{key}="{value}"' if key in ("output_dir", "name") else override


def _submit_all(config: Path, runs: Sequence[SweptRun], address: str | None) -> None:
    where = [] if address is None else ["--address", address]
    started = [(run, subprocess.Popen(run.command("submit", config, "--follow", *where))) for run in runs]
    codes = [(run, process.wait()) for run, process in started]  # one that fails leaves the others running
    for run, code in codes:
        _refuse_failure(run, code)


def _refuse_failure(run: SweptRun, code: int) -> None:
    if code:
        raise RunFailed(f"run {run.directory.name} ended with exit code {code}, see above; after that the same command continues")


def _check_choice(config: Path, runs: Sequence[SweptRun], output: Path) -> None:
    """Refuse before the first run starts what would be refused after the last: a place that cannot be written, or an oracle that cannot
    compare given responses."""
    from raypref.cli.evaluation import Evaluation
    from raypref.output.targets import check_directory, check_file

    check_directory("--output", output)
    for run in runs:
        check_directory("--output", run.directory)
    best = output / "best.json"
    check_file("--output", best, {"the config": config})
    Evaluation(config, _shared(runs), output, [best.name], Inputs())


def _shared(runs: Sequence[SweptRun]) -> list[str]:
    """The overrides that all runs have."""
    return [override for override in runs[0].overrides if all(override in run.overrides for run in runs)]


def _check_opponent(against: str, runs: Sequence[SweptRun]) -> None:
    """Refuse an opponent without answers before the first run starts, not after the last. A run of the sweep itself has none yet."""
    if any(against.partition("@")[0].endswith(str(run.directory)) for run in runs):
        return
    from raypref.cli.arguments import path_of
    from raypref.evaluation.response_files import records_of

    next(iter(records_of(path_of(against)[1])), None)


def _choose(config: Path, runs: Sequence[SweptRun], output: Path, against: str | None, *, every: bool) -> None:
    """``raypref evaluate best`` over the runs' held-out answers."""
    from raypref.cli.evaluate import best
    from raypref.cli.evaluation import Evaluation
    from raypref.output.run_reference import answered_iterations

    names = []
    for run in runs:
        iterations = answered_iterations(run.directory)[1:] if every else [None]
        names += [str(run.directory) if number is None else f"{run.directory}@{number}" for number in iterations]
    if len(names) < 2 and against is None:
        typer.echo("one run: nothing to choose from")
        return
    best(Evaluation(config, _shared(runs), output, ["best.json"], Inputs(responses=names)), against=against)
