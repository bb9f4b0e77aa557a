"""``raypref evaluate``: responses from files, or from policies that answer first, compared by the oracle of a config.

Each command prints a table and writes its result as JSON into ``--output``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from raypref.errors import ConfigError

if TYPE_CHECKING:
    from raypref.config import RunConfig
    from raypref.evaluation.matching import Matched
    from raypref.evaluation.outcomes import Outcomes
    from raypref.evaluation.response_files import ResponseSet

T = TypeVar("T")

app = typer.Typer(no_args_is_help=True, help="Compare responses: win rates, best of n, revisions, checkpoints; exports.")

Config = Annotated[Path, typer.Argument(help="A run's YAML file: oracle, judging, placement and evaluation are used.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="section.key=value, applied over the file.")]
Responses = Annotated[list[str] | None, typer.Option(help="NAME=FILE, or FILE; as often as there are sets of responses.")]
Policies = Annotated[list[str] | None, typer.Option("--policy", help="NAME=MODEL: a policy that answers --prompts first, on engines.")]
Prompts = Annotated[str | None, typer.Option(help="What the policies answer: file, directory or data set.")]
Questions = Annotated[Path | None, typer.Option(help="The questions of response files that name them by id alone.")]
Partial = Annotated[bool, typer.Option("--partial", help="Leave out prompts that are not in every set, and count them.")]
Output = Annotated[Path, typer.Option(help="Directory of the results.")]
ONE_FILE = "NAME=FILE, or FILE."


@app.command()
def matrix(
    config: Config,
    overrides: Overrides = None,
    *,
    responses: Responses = None,
    policies: Policies = None,
    prompts: Prompts = None,
    questions: Questions = None,
    partial: Partial = False,
    output: Output,
) -> None:
    """Win rates of everyone against everyone, with intervals and mean lengths: table, matrix.json and matrix.svg."""
    from raypref.evaluation import heat_map, tables
    from raypref.evaluation.win_rate_matrix import win_rate_matrix

    session = _Session(config, overrides, output)
    made = win_rate_matrix(session.play(session.sets(responses, policies, prompts, questions), partial), **session.bootstrap)
    heat_map.draw(made, output / "matrix.svg")
    session.show(tables.matrix_table(made), made, "matrix.json")


@app.command()
def references(
    config: Config,
    overrides: Overrides = None,
    *,
    against: Annotated[str, typer.Option(help=f"The references: {ONE_FILE}")],
    column: Annotated[str | None, typer.Option(help="The field of that file that holds them.")] = None,
    responses: Responses = None,
    policies: Policies = None,
    prompts: Prompts = None,
    questions: Questions = None,
    partial: Partial = False,
    output: Output,
) -> None:
    """Win rates against given references: 1, 0.5 and 0, with the SRPO paper's bootstrap beside the interval; references.json."""
    from raypref.evaluation import tables
    from raypref.evaluation.matching import match
    from raypref.evaluation.references import ReferenceWinRate, reference_win_rate
    from raypref.roles import OracleRole

    session = _Session(config, overrides, output)
    reference = _read(against, questions, column)
    pairs = [match([own, reference], partial=partial) for own in session.sets(responses, policies, prompts, questions)]

    async def compare(oracle: OracleRole) -> list[ReferenceWinRate]:
        how: dict[str, Any] = {"in_flight": session.in_flight, **session.bootstrap}
        return [await reference_win_rate(pair, pair.names[0], reference.name, oracle.compare, **how) for pair in pairs]

    made = session.ask(compare)
    session.show(tables.reference_table(made), made, "references.json")


@app.command()
def best(
    config: Config,
    overrides: Overrides = None,
    *,
    against: Annotated[str | None, typer.Option(help=f"A common opponent: {ONE_FILE} Default: everyone meets everyone.")] = None,
    responses: Responses = None,
    policies: Policies = None,
    prompts: Prompts = None,
    questions: Questions = None,
    partial: Partial = False,
    output: Output,
) -> None:
    """Which checkpoint to keep: the highest win rate on held-out prompts; best.json."""
    from raypref.evaluation import tables
    from raypref.evaluation.best_checkpoint import best_checkpoint

    session = _Session(config, overrides, output)
    sets = session.sets(responses, policies, prompts, questions)
    opponent = None
    if against is not None:
        sets.append(_read(against, questions))
        opponent = sets[-1].name
    made = best_checkpoint(session.play(sets, partial, opponent), opponent=opponent, **session.bootstrap)
    session.show(tables.checkpoint_table(made), made, "best.json")


@app.command("length-controlled")
def length_controlled(
    config: Config,
    overrides: Overrides = None,
    *,
    against: Annotated[str, typer.Option(help=f"The baseline: {ONE_FILE}")],
    responses: Responses = None,
    policies: Policies = None,
    prompts: Prompts = None,
    questions: Questions = None,
    partial: Partial = False,
    output: Output,
) -> None:
    """Win rates against a baseline as they would be at equal lengths (AlpacaEval 2); length_controlled.json.

    With two or more sets of responses the difficulty of the prompts is estimated from them together.
    """
    from raypref.evaluation import tables
    from raypref.evaluation.length_controlled import against_baseline

    session = _Session(config, overrides, output)
    sets = [*session.sets(responses, policies, prompts, questions), _read(against, questions)]
    made = against_baseline(session.play(sets, partial, sets[-1].name), sets[-1].name, **session.bootstrap)
    session.show(tables.length_controlled_table(made), made, "length_controlled.json")


@app.command("best-of-n")
def best_of_n(
    config: Config,
    overrides: Overrides = None,
    *,
    responses: Annotated[str, typer.Option(help=f"Several responses a prompt: {ONE_FILE}")],
    questions: Questions = None,
    output: Output,
) -> None:
    """Re-rank responses by the oracle's mean score: the best of 1, 2, 4, ... n against the first; best_of_n.json and best.jsonl."""
    from raypref.evaluation import reranking, tables
    from raypref.evaluation.exports import write_responses
    from raypref.evaluation.matching import match
    from raypref.roles import OracleRole
    from raypref.types import PreferenceMatrix

    session = _Session(config, overrides, output)
    answered = _read(responses, questions)

    matched = match([answered])

    async def judge(oracle: OracleRole) -> list[PreferenceMatrix]:
        return list(await asyncio.gather(*(oracle.matrix(matched.rollout(0, number)) for number in range(len(matched.prompts)))))

    matrices = [found.values for found in session.ask(judge)]
    picks = [reranking.pick(values) for values in matrices]
    write_responses(output / "best.jsonl", answered.picked([best or 0 for best in picks], f"{answered.name}_best"))
    made = reranking.best_of_n(matrices, **session.bootstrap)
    session.show(tables.best_of_table(made), made, "best_of_n.json")


@app.command()
def revisions(
    config: Config,
    overrides: Overrides = None,
    *,
    responses: Annotated[Path, typer.Option(help="A file of raypref generate --revisions N.")],
    against: Annotated[str, typer.Option(help=f"The opponent of every revision: {ONE_FILE}")],
    questions: Questions = None,
    partial: Partial = False,
    output: Output,
) -> None:
    """The win rate after 0, 1, ... N revisions (SRPO Figure 3); revisions.json."""
    from raypref.evaluation import tables
    from raypref.evaluation.response_files import read_rounds
    from raypref.evaluation.win_rate import summarise

    session = _Session(config, overrides, output)
    rounds = read_rounds(responses)
    opponent = _read(against, questions)
    outcomes = session.play([*rounds, opponent], partial, opponent.name)
    other = outcomes.names.index(opponent.name)
    made = [summarise(list(outcomes.values[place, other]), **session.bootstrap) for place in range(len(rounds))]
    session.show(tables.revision_table(made, opponent.name), made, "revisions.json")


@app.command()
def export(
    responses: Annotated[str, typer.Option(help=f"Responses in any format that is read: {ONE_FILE}")],
    layout: Annotated[
        Literal["alpaca_eval", "arena_hard", "arena_hard_v01"], typer.Option("--format", help="Whose file format, for their own judges.")
    ],
    output: Annotated[Path, typer.Option(help="The file; Arena-Hard's carries the model's name.")],
    questions: Questions = None,
) -> None:
    """Write responses as AlpacaEval or Arena-Hard read them."""
    from raypref.evaluation import exports

    write = {
        "alpaca_eval": exports.write_alpaca_eval,
        "arena_hard": exports.write_arena_hard_v2,
        "arena_hard_v01": exports.write_arena_hard_v01,
    }
    write[layout](output, _read(responses, questions))
    typer.echo(str(output))


class _Session:
    """What the commands share: the config, where results go, the oracle."""

    def __init__(self, config: Path, overrides: list[str] | None, output: Path) -> None:
        from raypref.config import load_config

        self.output = output
        self.config: RunConfig = load_config(config, overrides or []).model_copy(update={"output_dir": output})
        self.in_flight = self.config.loop.window_groups
        evaluation = self.config.evaluation
        self.bootstrap: dict[str, Any] = {
            "resamples": evaluation.bootstrap_resamples,
            "confidence": evaluation.confidence,
            "seed": self.config.seed,
        }
        output.mkdir(parents=True, exist_ok=True)

    def sets(self, files: list[str] | None, policies: list[str] | None, prompts: str | None, questions: Path | None) -> list[ResponseSet]:
        """The sets of files, then those that policies answer now."""
        return [_read(given, questions) for given in files or []] + [self._answered(given, prompts) for given in policies or []]

    def _answered(self, given: str, prompts: str | None) -> ResponseSet:
        from raypref.compose import generate
        from raypref.evaluation.response_files import read_responses

        name, _, path = given.partition("=")
        if not path:
            raise ConfigError(f"--policy {given!r}: expected NAME=MODEL")
        if prompts is None:
            raise ConfigError("--prompts: required with --policy")
        target = self.output / f"{name}.jsonl"
        policy = self.config.policy.model_copy(update={"path": path})
        generate(self.config.model_copy(update={"policy": policy}), prompts, target, responses=self.config.evaluation.responses)
        return read_responses(target, name)

    def ask(self, work: Callable[[Any], Coroutine[Any, Any, T]]) -> T:
        from raypref.compose import with_oracle

        return with_oracle(self.config, work)

    def play(self, sets: list[ResponseSet], partial: bool, opponent: str | None = None) -> Outcomes:
        from raypref.evaluation.matching import match
        from raypref.evaluation.outcomes import play
        from raypref.roles import OracleRole

        matched: Matched = match(sets, partial=partial)

        async def compare(oracle: OracleRole) -> Outcomes:
            return await play(matched, oracle.compare, in_flight=self.in_flight, opponent=opponent)

        return self.ask(compare)

    def show(self, table: Any, result: Any, name: str) -> None:
        from rich.console import Console

        from raypref.evaluation.tables import write_json

        write_json(self.output / name, result)
        Console().print(table)
        typer.echo(str(self.output / name))


def _read(given: str, questions: Path | None, column: str | None = None) -> ResponseSet:
    from raypref.evaluation.response_files import read_questions, read_responses

    name, separator, path = given.rpartition("=")
    asked = None if questions is None else read_questions(questions)
    return read_responses(Path(path), name if separator else None, questions=asked, column=column)
