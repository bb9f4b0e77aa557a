"""Options that commands share, declared once; and ``command``, which gives them to the commands of ``raypref evaluate``."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import typer

Overrides = Annotated[list[str] | None, typer.Argument(help="section.key=value, applied over the file.")]
RunFile = Annotated[Path, typer.Argument(help="The run's YAML file.")]
EvaluationFile = Annotated[Path, typer.Argument(help="A run's YAML file, or a run: oracle, judging, placement and evaluation are used.")]
Output = Annotated[
    Path,
    typer.Option(help="Directory of the results; earlier ones are replaced, responses never."),
]
Questions = Annotated[Path | None, typer.Option(help="The questions of response files that name them by id alone.")]
FORMAT_HELP = (
    "How to read files that fit two formats: [NAME=]generate, rollouts, alpaca_eval, arena_hard, arena_hard_v01, responses or response."
)
ONE_FILE = "NAME=FILE, FILE, or a run and an iteration (runs/x@2: its held-out answers)."


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a command of ``raypref evaluate`` reads; a command that does not have one of the options has its default."""

    responses: Annotated[
        list[str] | None, typer.Option(help="NAME=FILE, or FILE, or a run and an iteration (runs/x@2); as often as there are sets.")
    ] = None
    policies: Annotated[
        list[str] | None, typer.Option("--policy", help="NAME=MODEL or NAME=runs/x@2: a policy that answers --prompts first.")
    ] = None
    prompts: Annotated[str | None, typer.Option(help="What policies answer: file, directory or data set.")] = None
    questions: Questions = None
    match: Annotated[
        Literal["id", "text"] | None,
        typer.Option(
            help="What makes prompts the same: ids or texts (all turns). Default: texts; ids where a file has no texts and no id is a "
            "whole number."
        ),
    ] = None
    formats: Annotated[list[str] | None, typer.Option("--format", help=FORMAT_HELP)] = None
    partial: Annotated[bool, typer.Option("--partial", help="Leave out, and count, prompts that a set lacks.")] = False


SETS = ("responses", "policies", "prompts", "questions", "match", "formats", "partial")
"""The inputs of a command that compares sets of responses."""


def command(
    app: typer.Typer, evaluation: Callable[..., Any], *results: str, inputs: Sequence[str] = SETS, name: str | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorator: a command with the shared options and those of the function.

    The first argument of the function is ``evaluation(config, overrides, output, results, inputs)``; its options follow.

    Args:
        app: what the command belongs to.
        evaluation: makes the first argument.
        results: names of the files that the command writes into ``--output``.
        inputs: fields of ``Inputs`` that are options of the command.
        name: of the command; default: the function's.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        types, shared_types = get_type_hints(function, include_extras=True), get_type_hints(Inputs, include_extras=True)
        _, *special = inspect.signature(function).parameters.values()
        shared = inspect.signature(Inputs).parameters
        parameters = [
            inspect.Parameter("config", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=EvaluationFile),
            inspect.Parameter("overrides", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=Overrides, default=None),
            *(parameter.replace(annotation=types[parameter.name]) for parameter in special),
            *(shared[key].replace(annotation=shared_types[key], kind=inspect.Parameter.KEYWORD_ONLY) for key in inputs),
            inspect.Parameter("output", inspect.Parameter.KEYWORD_ONLY, annotation=Output),
        ]

        @functools.wraps(function)
        def run(config: Path, overrides: list[str] | None, *, output: Path, **options: Any) -> None:
            given = Inputs(**{key: options.pop(key) for key in inputs})
            function(evaluation(config, overrides, output, results, given), **options)

        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # typer reads these two
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        app.command(name)(run)
        return function

    return register
