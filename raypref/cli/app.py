"""The ``raypref`` command."""

from __future__ import annotations

import io
import logging
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from raypref import __version__
from raypref.cli import plan as plans
from raypref.cli.ask import ask
from raypref.cli.capability import capability
from raypref.cli.config import config
from raypref.cli.doctor import doctor
from raypref.cli.ending import ended_by, leave, show_fault
from raypref.cli.evaluate import app as evaluate
from raypref.cli.init import init
from raypref.cli.inspect import app as inspect
from raypref.cli.jobs import jobs
from raypref.cli.mt_bench import app as mt_bench
from raypref.cli.options import Overrides, RunFile
from raypref.cli.push import push
from raypref.cli.report import report
from raypref.cli.submit import submit
from raypref.cli.sweep import sweep
from raypref.output.terminal import counted, visible

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain lines: every help fits a screen of 80 x 40
    help="Align language models from preferences.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_show_version)] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error; may stand anywhere.")] = False,
) -> None:
    """Options of ``raypref`` itself. Their callbacks do the work, and ``main`` that of ``--debug``."""


@app.command()
def train(
    config: RunFile,
    overrides: Overrides = None,
    resume: Annotated[
        str | None,
        typer.Option(
            "--resume",
            metavar="[auto|CHECKPOINT]",
            help="Continue the run in output_dir from its newest checkpoint, or from CHECKPOINT; auto: begin if there is no run yet.",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Remove the run that output_dir holds, once all checks have passed.")
    ] = False,
    supervise: Annotated[
        bool,
        typer.Option("--supervise", help="Start the run in another process, and again if that is killed (checkpoint.restarts)."),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved config and the plan; start nothing.")] = False,
) -> None:
    """Run what a config describes, on the Ray cluster that is there or on a local one."""
    from raypref.cli.supervision import raypref_command, supervised
    from raypref.compose import run
    from raypref.config import load_config
    from raypref.output.failure import how_it_goes_on
    from raypref.output.summary import print_summary
    from raypref.output.targets import check_file

    settings = load_config(config, overrides or [])
    if dry_run:
        return plans.dry_run(settings, config)
    if supervise:
        command = [*raypref_command(), "train", str(config), *(overrides or [])]
        begin = [*command, *(["--overwrite"] if overwrite else []), *([] if resume is None else [f"--resume={resume}"])]
        raise typer.Exit(supervised(settings, begin, [*command, "--resume=auto"]))
    if resume is None:
        check_file("output_dir", settings.output_dir / "config.yaml", {"the config": config})
    try:
        result = run(settings, resume=_resume_keyword(resume), overwrite=overwrite)
    except KeyboardInterrupt:
        typer.echo(visible(f"stopped; {how_it_goes_on(settings)}"), err=True)
        raise
    print_summary(result.summary)


def _resume_keyword(resume: str | None) -> bool | Literal["auto"] | Path:
    """What ``--resume`` says, as ``raypref.run`` takes it."""
    if resume is None or resume == "newest":
        return resume is not None
    return "auto" if resume == "auto" else Path(resume)


@app.command()
def check(
    config: RunFile,
    overrides: Overrides = None,
) -> None:
    """Name every problem of a config. Its data's first records and its model's files are read; nothing is started."""
    from raypref.cli.check import FIRST_RECORDS, problems_of

    problems = problems_of(config, overrides or [])
    if not problems:
        typer.echo(
            f"{visible(config)}: no problems (the config, the first {FIRST_RECORDS} records of the data, the policy's config and tokenizer)"
        )
        return
    for problem in problems:
        typer.echo(f"error: {visible(problem)}", err=True)
    typer.echo(f"{visible(config)}: {counted(len(problems), 'problem')}", err=True)
    raise typer.Exit(2)


@app.command()
def generate(
    config: Annotated[
        Path, typer.Argument(help="A run's YAML file, or a run and an iteration (runs/x@2): policy, data, rollout and placement are used.")
    ],
    overrides: Overrides = None,
    *,
    prompts: Annotated[str, typer.Option(help="JSONL or Parquet file, directory, or data set with the prompts.")],
    output: Annotated[Path, typer.Option(help="JSONL file to write.")],
    responses: Annotated[int, typer.Option(min=1, help="Answers per prompt.")] = 1,
    revisions: Annotated[int, typer.Option(min=0, help="How often each answer is revised (data.template).")] = 0,
    best: Annotated[
        bool,
        typer.Option("--best", help="Keep the answer that the oracle scores highest; all are first written to <output's stem>.all.jsonl."),
    ] = False,
) -> None:
    """Have the policy answer prompts. It may revise its answers, and the oracle keep the best of them."""
    from raypref.cli.arguments import run_config
    from raypref.compose import generate as run
    from raypref.output.targets import check_file

    check_file("--output", output, {"the config": config} if config.is_file() else {})
    run(run_config(config, overrides or []), prompts, output, responses=responses, revisions=revisions, best=best)
    typer.echo(visible(output))


app.command()(init)
app.command()(config)
app.command()(doctor)
app.add_typer(inspect, name="inspect")
app.command()(report)
app.add_typer(evaluate, name="evaluate")
app.command()(submit)
app.add_typer(jobs, name="jobs")
app.add_typer(mt_bench, name="mt-bench")
app.command()(ask)
app.command()(sweep)
app.command()(plans.plan)
app.command()(push)
app.command()(capability)


class _Log(logging.Handler):
    """Writes to the current ``sys.stderr``: while the progress line is live, rich replaces it and shows log lines above that line."""

    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(visible(self.format(record)) + "\n")
        sys.stderr.flush()


def resume_with_value(arguments: Sequence[str]) -> list[str]:
    """The command's arguments with a value for each ``--resume``, which may stand alone: as in ``--resume``, or ``--resume loss.eta=3``.

    Typer would take whatever follows as the value. Here only ``auto`` and the name or the path of a checkpoint are taken.
    """
    return [
        "--resume=newest" if argument == "--resume" and not re.fullmatch(r"auto|(.*/)?iteration_\d+(-step_\d+)?/?", following) else argument
        for argument, following in zip(arguments, [*arguments[1:], ""], strict=True)
    ]


def main() -> None:
    """Entry point."""
    logging.basicConfig(level=logging.WARNING, format="driver %(levelname)s %(name)s: %(message)s", handlers=[_Log()])
    for package in ("raypref", "actors"):
        logging.getLogger(package).setLevel(logging.INFO)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that is not in UTF-8 shows an escape; nothing fails at the end
    sys.path.append(os.getcwd())  # the user's modules are found, but never in place of an installed package
    debug = "--debug" in sys.argv[1:]
    sys.excepthook = show_fault if not debug else sys.__excepthook__
    command = typer.main.get_command(app)  # calling the app would put a hook of typer's in place of ours
    leave(ended_by(lambda: command(resume_with_value([argument for argument in sys.argv[1:] if argument != "--debug"])), debug=debug))
