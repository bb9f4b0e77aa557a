"""``raypref push``: a run's policy with its model card to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def push(
    run: Annotated[Path, typer.Argument(help="The output_dir of a run.")],
    repo: Annotated[str, typer.Argument(help="OWNER/NAME on the Hugging Face hub; made if it does not exist.")],
    iteration: Annotated[
        int | None, typer.Option(min=1, help="The policy after this iteration (policies/). Default: the final one (policy/).")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="A new repository is private.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the model card and the files; upload nothing.")] = False,
) -> None:
    """Upload a run's policy with a model card made from the run: method, data, win rates with intervals, settings, versions, limits."""
    from raypref.output.terminal import visible
    from raypref.report import hub
    from raypref.report.model_card import model_card
    from raypref.report.run_directory import RunDirectory

    hub.check_name(repo)
    directory = RunDirectory(run)
    policy = hub.policy_to_push(directory, iteration)
    card = model_card(directory, iteration, repo)
    if dry_run:
        typer.echo(visible(card))
        typer.echo(visible(f"files of {policy}: {', '.join(sorted(path.name for path in policy.iterdir()))}"), err=True)
        return
    typer.echo(visible(hub.push(policy, card, repo, private=private)))
