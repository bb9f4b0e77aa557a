"""``raypref inspect``: one prompt or one step of a run; the first records of a run's data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from raypref.cli.options import Overrides, RunFile
from raypref.errors import ConfigError


class _RunFirst(TyperGroup):
    """``raypref inspect RUN`` is short for ``raypref inspect run RUN``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["run", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_RunFirst,
    no_args_is_help=True,
    help="""Look into a run, or at its data.

    \b
    raypref inspect RUN                 an overview
    raypref inspect RUN --prompt ID     a prompt's responses, matrix, targets
    raypref inspect RUN --step N        a step's batch and its micro-batches
    raypref inspect RUN --sort METRIC   groups by a metric
    raypref inspect run --help          all options of these
    raypref inspect data CONFIG         the first records as the policy sees them
    """,
)


@app.command("run")
def inspect_run(
    run: Annotated[Path, typer.Argument(help="The output_dir of a run, which may still go on.")],
    prompt: Annotated[str | None, typer.Option(help="The groups of a prompt, by its id or its index in the run.")] = None,
    step: Annotated[int | None, typer.Option(min=1, help="An optimiser step: its batch and its micro-batches.")] = None,
    sort: Annotated[str | None, typer.Option(metavar="METRIC", help="Groups by a metric: cycle, ties, length, spread, ...")] = None,
    iteration: Annotated[int | None, typer.Option(min=1, help="With --sort and --prompt: of this iteration. Default: the newest.")] = None,
    tokens: Annotated[int, typer.Option(min=0, help="Most tokens of a prompt or a response that are spelt out; 0: none.")] = 120,
    log_probs: Annotated[
        bool, typer.Option("--log-probs", help="With --prompt: log-probs before and after, from the policies on disk.")
    ] = False,
    most: Annotated[int, typer.Option(min=1, help="With --sort: lines.")] = 20,
) -> None:
    """An overview of a run; or one prompt, one step, or its groups by a metric. The word 'run' may be left out."""
    import shutil

    from raypref.cli.inspect_run import inspected
    from raypref.output.terminal import visible
    from raypref.report.run_directory import RunDirectory

    if sum(option is not None for option in (prompt, step, sort)) > 1:
        raise ConfigError("--prompt, --step, --sort: give one of them")
    width = min(shutil.get_terminal_size().columns, 120)
    how: dict[str, Any] = {"iteration": iteration, "tokens": tokens, "most": most, "log_probs": log_probs}
    for line in inspected(RunDirectory(run), prompt=prompt, step=step, sort=sort, width=width, **how):
        typer.echo(visible(line))


@app.command("data")
def inspect_data(
    config: RunFile,
    overrides: Overrides = None,
    records: Annotated[int, typer.Option(min=0, help="Records that are shown token by token.")] = 2,
    tokens: Annotated[int, typer.Option(min=2, help="Most tokens of each prompt and response that are shown.")] = 120,
) -> None:
    """What a run's data looks like to its policy: tokens with their loss mask, lengths, duplicates, what is left out and why."""
    import shutil

    from raypref.cli.inspect_data import inspected
    from raypref.output.terminal import visible

    width = min(shutil.get_terminal_size().columns, 120)
    for line in inspected(config, overrides or [], count=records, tokens=tokens, width=width):
        typer.echo(visible(line))
