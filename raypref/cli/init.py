"""``raypref init``: a directory to start from, with a config, records, an oracle and a driver."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Annotated, Literal

import typer

from raypref.errors import ConfigError
from raypref.output.terminal import visible

POLICY = "Qwen/Qwen2.5-0.5B-Instruct"


def init(
    directory: Annotated[Path, typer.Argument(help="What is made; it may exist, if it is empty.")],
    method: Annotated[str, typer.Option(help="The loss: sppo, inpo, dpo, ...; `raypref config loss` explains each.")] = "sppo",
    data: Annotated[
        Literal["prompts", "preferences", "demonstrations"] | None,
        typer.Option(help="prompts: the policy answers them; preferences: given pairs. Default: what the method is for."),
    ] = None,
    policy: Annotated[str, typer.Option(help="Model directory or hub name.")] = POLICY,
    device: Annotated[Literal["auto", "cuda", "cpu"], typer.Option(help="auto: one GPU, if this machine has one.")] = "auto",
    own_loss: Annotated[bool, typer.Option("--own-loss", help="Also write my_loss.py, which the config names.")] = False,
    own_selection: Annotated[bool, typer.Option("--own-selection", help="Also write my_selection.py, which the config names.")] = False,
) -> None:
    """Make a directory to start from: config, records, oracle, script."""
    from raypref.cli.init_files import files
    from raypref.cli.machine import gpus
    from raypref.settings.starter import config_text, kinds_of

    kinds = kinds_of(method)
    kind = data or kinds[0]
    if kind not in kinds:
        raise ConfigError(f"--data {kind}: {method} trains on {' or '.join(kinds)}; leave --data out, or give another --method")
    if own_selection and kind != "prompts":
        raise ConfigError(f"--own-selection: with --data {kind} the pairs are given; leave one of the two out")
    policy = str(Path(policy).expanduser().absolute()) if Path(policy).expanduser().is_dir() else policy
    text = config_text(
        method,
        kind,
        name=re.sub(r"[^A-Za-z0-9_.-]", "_", directory.absolute().name) or "run",
        policy=policy,
        chat=has_chat_template(policy),
        gpu=device == "cuda" or (device == "auto" and bool(gpus().names)),
        loss="my_loss:MyLoss" if own_loss else None,
        selection="my_selection:MySelection" if own_selection else None,
    )
    write(directory, {"run.yaml": text, **dict(files(kind, loss=own_loss, selection=own_selection))})
    typer.echo(visible(f"cd {shlex.quote(str(directory))}\nraypref check run.yaml\nraypref train run.yaml    # or: python train.py"))


def has_chat_template(policy: str) -> bool:
    """Whether a local model's tokenizer has a chat template; a model of the hub is taken for one that chats."""
    folder = Path(policy)
    if not folder.is_dir():
        return True
    settings = folder / "tokenizer_config.json"
    return (folder / "chat_template.jinja").is_file() or (settings.is_file() and "chat_template" in json.loads(settings.read_text()))


def write(directory: Path, contents: dict[str, str]) -> None:
    """Write the files into a new or an empty directory.

    Raises:
        ConfigError: there is something in it, or it cannot be written.
    """
    try:
        if directory.exists() and (not directory.is_dir() or next(directory.iterdir(), None) is not None):
            raise ConfigError(f"{directory}: exists and is not an empty directory; nothing was written; give another name")
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            (directory / name).write_text(content, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{directory}: cannot be written: {error}; give another place") from error
