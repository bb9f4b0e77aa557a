"""``raypref plan``: what a run will need, before anything is started."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raypref.cli.options import Overrides, RunFile
from raypref.errors import ConfigError, DataError, refuse
from raypref.output.terminal import print_table, visible

if TYPE_CHECKING:
    from raypref.config import RunConfig
    from raypref.plan.run_plan import RunPlan

_SHOWN_CHARACTERS = 1500
"""Of a first prompt; the middle of a longer one is left out."""


def plan(
    config: RunFile,
    overrides: Overrides = None,
    *,
    gpu: Annotated[str | None, typer.Option(metavar="KIND", help="As h100 (the default), a100-40g or l4.")] = None,
    gpus: Annotated[int | None, typer.Option(min=1, metavar="N", help="GPUs of each node; default: as many as needed.")] = None,
    gpu_memory: Annotated[float | None, typer.Option(min=1, metavar="GIB", help="Of each GPU; also decides its kind.")] = None,
    nodes: Annotated[int, typer.Option(min=1, metavar="M", help="Nodes.")] = 1,
    response_tokens: Annotated[float | None, typer.Option(min=1, metavar="N", help="Mean length; default: half the limit.")] = None,
    sampling_rate: Annotated[float | None, typer.Option(metavar="N", help="Tokens/s of an engine; default: estimated.")] = None,
    training_rate: Annotated[float | None, typer.Option(metavar="N", help="Tokens/s of a rank; default: estimated.")] = None,
    judging_rate: Annotated[float | None, typer.Option(metavar="N", help="Comparisons/s of an oracle replica.")] = None,
    oracle_gib: Annotated[float | None, typer.Option(min=0, metavar="GIB", help="Its weights; default: of its files.")] = None,
    liger: Annotated[bool | None, typer.Option("--liger/--no-liger", help="Liger's kernels; default: as installed.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> None:
    """What a run will need: memory, places, steps, time. Starts nothing, needs no GPU."""
    from raypref.config import load_config
    from raypref.plan.hardware import Cluster
    from raypref.plan.run_plan import Options
    from raypref.plan.speeds import Speeds

    settings = load_config(config, overrides or [])
    speeds = Speeds(sampling_rate=sampling_rate, training_rate=training_rate, judging_rate=judging_rate)
    cluster = Cluster.of(gpu=gpu, gpus=gpus, gpu_gib=gpu_memory, nodes=nodes)
    oracle = None if oracle_gib is None else int(oracle_gib * 2**30)
    made, problems = planned(settings, cluster, Options(speeds, response_tokens), fused=liger, oracle=oracle)
    if as_json:
        typer.echo(json.dumps(made.record() | {"problems": [str(problem) for problem in problems]}, indent=2))
    else:
        show(made)
    refuse_data(problems)


def planned(config: RunConfig, cluster: Any = None, options: Any = None, **given: Any) -> tuple[RunPlan, list[ConfigError | DataError]]:
    """The plan of a config, and what is wrong with its data: the plan has no steps and no times then.

    Args:
        config: of the run.
        cluster: where it is to run; default: the GPUs that it needs, H100s.
        options: what is assumed.
        given: further arguments of ``raypref.plan.known.known``.

    Raises:
        ConfigError: something else is wrong with the config.
    """
    from raypref.checks import Task, check_supply
    from raypref.compose import inspect
    from raypref.loop.loading import load_run_data
    from raypref.plan.hardware import CPU, Cluster
    from raypref.plan.known import known
    from raypref.plan.run_plan import plan as plan_of

    problems, facts = inspect(config, Task())
    refuse(problems)
    wrong: list[ConfigError | DataError] = []
    data = None
    try:
        data = load_run_data(config, facts)
        refuse(check_supply(config, len(data.items)), DataError)
    except (ConfigError, DataError) as error:
        data = None
        wrong.append(error)
    cluster = cluster or Cluster.of()
    if config.placement.device == "cpu":
        cluster = Cluster(CPU, cluster.gpus, cluster.nodes)
    return plan_of(config, cluster, known(config, data, facts.tokenizer, **given), options), wrong


def refuse_data(problems: Sequence[ConfigError | DataError]) -> None:
    """End as with an error if the data could not be read, once the rest was shown."""
    if problems:
        raise problems[0]


def show(made: RunPlan) -> None:
    """Print a plan."""
    from raypref.plan import report

    gpu = made.setting.cluster.gpu
    kind = "" if gpu is None or not gpu.gib else f" on {gpu.name} of {gpu.gib:g} GiB"
    typer.echo(visible(f"{made.setting.config.name}{kind}: {report.verdict(made)}"))
    for what in made.not_counted:
        typer.echo(f"not counted: {what}")
    for line in report.changes(made):
        typer.echo(line)
    for part in report.parts(made):
        typer.echo(f"\n{visible(part.title)}")
        print_table(part.table)
        for note in part.notes:
            typer.echo(visible(note))
    if (sizes := report.micro_batch(made)) is not None:
        typer.echo(f"\n{sizes}")
    if made.prompt is not None:
        _show_prompt(made)


def _show_prompt(made: RunPlan) -> None:
    """The text as the policy reads it; control tokens in reverse video on a terminal, and between corner brackets elsewhere."""
    from rich.console import Console
    from rich.text import Text

    prompt = made.prompt
    assert prompt is not None
    console = Console()
    typer.echo(f"\nthe first prompt, {visible(prompt.id)!r}, as the policy sees it: {prompt.tokens} tokens, control tokens marked")
    text = Text()
    for piece, control in prompt.pieces:
        text.append(visible(piece) if console.is_terminal or not control else f"\u27e6{visible(piece)}\u27e7", "reverse" if control else "")
    if len(text) > _SHOWN_CHARACTERS:
        half = _SHOWN_CHARACTERS // 2
        left_out = Text(f"\n[... {len(text) - 2 * half} characters ...]\n", "dim")
        text = text[:half] + left_out + text[-half:]
    console.print(text, soft_wrap=True, highlight=False)


def dry_run(config: RunConfig, path: Path) -> None:
    """Print the resolved config and the plan; ``path``: of the file."""
    from raypref.output.directory import resolved

    typer.echo(f"# {visible(path)}, resolved\n{visible(resolved(config))}")
    made, problems = planned(config)
    show(made)
    refuse_data(problems)
