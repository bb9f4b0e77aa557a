"""``raypref ask``: a file of questions to the chat endpoint of a config's judge."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from raypref.cli.options import Overrides
from raypref.output.terminal import counted, visible


def ask(
    config: Annotated[Path, typer.Argument(help="A run's YAML file whose oracle is a judge: its endpoint, prices and budget are used.")],
    overrides: Overrides = None,
    *,
    questions: Annotated[Path, typer.Option(help="JSON Lines with id and question.")],
    output: Annotated[Path, typer.Option(help="JSON Lines with id and answer; what is there is not asked again.")],
) -> None:
    """Put questions to the judge's endpoint as they are, and write the answers as they come; the same command continues."""
    from raypref.cli.arguments import run_config
    from raypref.errors import ConfigError
    from raypref.oracles.support.asking import HasEndpoint, answered_before, ask_all, read_questions
    from raypref.output.targets import check_file

    settings = run_config(config, overrides or [])
    oracle: Any = settings.oracle
    if not isinstance(oracle, HasEndpoint):
        kind = "none" if oracle is None else oracle.type
        raise ConfigError(f"oracle.type: {kind}, which has no chat endpoint to ask; set oracle.type=judge")
    asked = read_questions(questions)
    check_file("--output", output, {"the config": config, "--questions": questions} if config.is_file() else {"--questions": questions})
    if before := len(answered_before(output, asked)):
        typer.echo(f"{visible(output)}: has {counted(before, 'answer')} already; they are not asked for again")
    ask_all(oracle, asked, output)
    typer.echo(visible(output))
