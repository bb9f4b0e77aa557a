"""``raypref inspect``: one prompt or one step of a run; the first records of a run's data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from raypref.cli.options import Overrides, RunFile


class _RunFirst(TyperGroup):
    """``raypref inspect RUN`` is short for ``raypref inspect run RUN``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["run", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(cls=_RunFirst, no_args_is_help=True, help="Look into a run (inspect RUN), or at its data (inspect data CONFIG).")


@app.command("run")
def inspect_run(
    run: Annotated[Path, typer.Argument(help="The output_dir of a run, which may still go on.")],
) -> None:
    """An overview of a run. The word 'run' may be left out: raypref inspect RUN."""
    from raypref.output.terminal import visible
    from raypref.report.overview import overview
    from raypref.report.run_directory import RunDirectory

    typer.echo(visible("\n".join(overview(RunDirectory(run)))))


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
