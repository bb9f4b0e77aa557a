"""``raypref evaluate``: responses from files, or from policies that answer first, compared by the oracle of a config.

Each command prints a table and writes its result as JSON into ``--output``.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from raypref.cli.session import Session

if TYPE_CHECKING:
    from raypref.evaluation.references import ReferenceWinRate
    from raypref.roles import OracleRole
    from raypref.types import Comparison, PreferenceMatrix

app = typer.Typer(no_args_is_help=True, help="Compare responses: win rates, best of n, revisions, checkpoints; exports.")

Config = Annotated[Path, typer.Argument(help="A run's YAML file: oracle, judging, placement and evaluation are used.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="section.key=value, applied over the file.")]
Responses = Annotated[list[str] | None, typer.Option(help="NAME=FILE, or FILE; as often as there are sets of responses.")]
Policies = Annotated[list[str] | None, typer.Option("--policy", help="NAME=MODEL: a policy that answers --prompts first, on engines.")]
Prompts = Annotated[str | None, typer.Option(help="What the policies answer: file, directory or data set.")]
Questions = Annotated[Path | None, typer.Option(help="The questions of response files that name them by id alone.")]
Partial = Annotated[bool, typer.Option("--partial", help="Leave out prompts that are not in every set, and count them.")]
Output = Annotated[Path, typer.Option(help="Directory of the results. Responses there are not replaced.")]
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
    from raypref.evaluation import tables
    from raypref.evaluation.matching import match
    from raypref.evaluation.win_rate_matrix import win_rate_matrix

    session = Session(config, overrides, output, "matrix.json", "matrix.svg", questions=questions)
    sets = session.sets(responses, policies, prompts, partial=partial, least=2)
    made = win_rate_matrix(session.play(match(sets, partial=partial)), **session.bootstrap)
    table = tables.matrix_table(made)
    tables.save_svg(output / "matrix.svg", table)
    session.show(table, made, "matrix.json")


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
    from raypref.evaluation.references import reference_win_rate

    session = Session(config, overrides, output, "references.json", questions=questions)
    reference = session.read(against, column)
    sets = session.sets(responses, policies, prompts, partial=partial, against=reference)
    pairs = [match([own, reference], partial=partial) for own in sets]

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
    from raypref.evaluation.matching import match

    session = Session(config, overrides, output, "best.json", questions=questions)
    common = None if against is None else session.read(against)
    sets = session.sets(responses, policies, prompts, partial=partial, least=2 if common is None else 1, against=common)
    opponent = None if common is None else common.name
    matched = match(sets if common is None else [*sets, common], partial=partial)
    made = best_checkpoint(session.play(matched, opponent), opponent=opponent, **session.bootstrap)
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

    With two or more sets of responses the difficulty of the prompts is estimated from them together. The penalty is that of the paper
    (L2), not that of AlpacaEval's own code (L1), whose win rates differ by 0.35 points on average.
    """
    from raypref.evaluation import tables
    from raypref.evaluation.length_controlled import against_baseline, check_lengths
    from raypref.evaluation.matching import match

    session = Session(config, overrides, output, "length_controlled.json", questions=questions)
    baseline = session.read(against)
    sets = session.sets(responses, policies, prompts, partial=partial, against=baseline)
    matched = match([*sets, baseline], partial=partial)
    check_lengths(matched, baseline.name)
    made = against_baseline(session.play(matched, baseline.name), baseline.name, **session.bootstrap)
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
    import numpy as np

    from raypref.cli.given import check_counts
    from raypref.evaluation import reranking, tables
    from raypref.evaluation.exports import write_responses
    from raypref.evaluation.matching import match

    session = Session(config, overrides, output, "best_of_n.json", questions=questions)
    answered = session.read(responses)
    check_counts(answered)
    matched = match([answered])
    chosen = output / "best.jsonl"
    session.check_targets(chosen)

    async def judge(oracle: OracleRole) -> list[PreferenceMatrix]:
        return list(await asyncio.gather(*(oracle.matrix(matched.rollout(0, number)) for number in range(len(matched.prompts)))))

    matrices = [found.values for found in session.ask(judge)]
    picks = [reranking.pick(values) for values in matrices]
    made = reranking.best_of_n(matrices, lengths=np.array(matched.each_length(0)), unit=matched.unit, **session.bootstrap)
    write_responses(chosen, answered.picked([best or 0 for best in picks], f"{answered.name}_best"))
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
    from raypref.evaluation.matching import match
    from raypref.evaluation.outcomes import counting
    from raypref.evaluation.revisions import compare_rounds, revision_curve

    session = Session(config, overrides, output, "revisions.json", questions=questions)
    rounds, opponent = session.rounds(responses), session.read(against)
    matched = match([*rounds, opponent], partial=partial)
    session.check_targets()
    *answers, defenders = [[matched.rollout(place, number) for number in range(len(matched.prompts))] for place in range(len(rounds) + 1)]

    async def compare(oracle: OracleRole) -> list[list[Comparison]]:
        return await compare_rounds(answers, defenders, counting(oracle.compare), in_flight=session.in_flight)

    lengths = [float(length) for length in matched.lengths.mean(axis=1)[:-1]]
    made = revision_curve(session.ask(compare), lengths, matched.unit, **session.bootstrap)
    session.show(tables.revision_table(made, opponent.name), made, "revisions.json")


@app.command()
def agreement(
    config: Config,
    overrides: Overrides = None,
    *,
    labels: Annotated[
        Path, typer.Option(help="Comparisons that people judged: prompt, responses (two), label (first, second, tie, or a list of these).")
    ],
    tie_margin: Annotated[float, typer.Option(help="Verdicts within this distance of one half are ties.")] = 0.0,
    output: Output,
) -> None:
    """How far the oracle agrees with people: share, Cohen's kappa, labels by verdicts; agreement.json."""
    from raypref.evaluation import tables
    from raypref.evaluation.agreement import Agreement
    from raypref.evaluation.labelled_comparisons import oracle_agreement

    session = Session(config, overrides, output, "agreement.json")
    comparisons = session.comparisons(labels)
    session.check_targets()

    async def compare(oracle: OracleRole) -> Agreement:
        how: dict[str, Any] = {"in_flight": session.in_flight, "tie_margin": tie_margin, **session.bootstrap}
        return await oracle_agreement(comparisons, oracle.compare, **how)

    made = session.ask(compare)
    session.show(tables.agreement_table(made), made, "agreement.json")


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
    from raypref.cli.given import check_targets, path_of, read_given
    from raypref.evaluation import exports
    from raypref.evaluation.response_files import read_questions

    write = {
        "alpaca_eval": exports.write_alpaca_eval,
        "arena_hard": exports.write_arena_hard_v2,
        "arena_hard_v01": exports.write_arena_hard_v01,
    }
    check_targets(output.parent, [], [output], [path_of(responses)[1]])
    write[layout](output, read_given(responses, None if questions is None else read_questions(questions)))
    typer.echo(str(output))
