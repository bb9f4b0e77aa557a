"""``raypref evaluate``: responses from files, or from policies that answer first, compared by the oracle of a config.

Each command prints a table and writes its result as JSON into ``--output``. ``raypref.cli.options`` has the options that they share.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from raypref.cli.evaluation import Evaluation
from raypref.cli.options import FORMAT_HELP, ONE_FILE, Questions, command
from raypref.output.terminal import visible

if TYPE_CHECKING:
    from raypref.evaluation.agreement import Agreement
    from raypref.evaluation.references import ReferenceWinRate
    from raypref.roles import OracleRole
    from raypref.types import PreferenceMatrix

app = typer.Typer(no_args_is_help=True, help="Compare responses: win rates, best of n, revisions, checkpoints, agreement; exports.")
evaluation_command = partial(command, app, Evaluation)


@evaluation_command("matrix.json", "matrix.svg")
def matrix(evaluation: Evaluation) -> None:
    """Win rates of everyone against everyone, with intervals and mean lengths: table, matrix.json and matrix.svg."""
    from raypref.evaluation import tables
    from raypref.evaluation.win_rate_matrix import win_rate_matrix

    sets = evaluation.sets(least=2)
    result = win_rate_matrix(evaluation.play(evaluation.match(sets)), **evaluation.bootstrap)
    table = tables.matrix_table(result)
    evaluation.show(table, result, "matrix.json")
    tables.save_svg(evaluation.output / "matrix.svg", table)


@evaluation_command("references.json")
def references(
    evaluation: Evaluation,
    *,
    against: Annotated[str, typer.Option(help=f"The references: {ONE_FILE}")],
    column: Annotated[str | None, typer.Option(help="The field of that file that holds them.")] = None,
) -> None:
    """Win rates against given references: 1, 0.5 and 0, with the SRPO paper's bootstrap beside the interval; references.json."""
    from raypref.evaluation import tables
    from raypref.evaluation.references import reference_win_rate

    reference = evaluation.read(against, column)
    sets = evaluation.sets(against=reference)
    pairs = [evaluation.match([answers, reference]) for answers in sets]

    async def compare(oracle: OracleRole) -> list[ReferenceWinRate]:
        how: dict[str, Any] = {"in_flight": evaluation.in_flight, **evaluation.bootstrap}
        return [await reference_win_rate(pair, pair.names[0], reference.name, oracle.compare, **how) for pair in pairs]

    result = evaluation.ask(compare)
    evaluation.show(tables.reference_table(result), result, "references.json")


@evaluation_command("best.json")
def best(
    evaluation: Evaluation,
    *,
    against: Annotated[str | None, typer.Option(help=f"A common opponent: {ONE_FILE} Default: everyone meets everyone.")] = None,
) -> None:
    """Which checkpoint to keep: the highest win rate on held-out prompts; best.json."""
    from raypref.evaluation import tables
    from raypref.evaluation.best_checkpoint import best_checkpoint

    common = None if against is None else evaluation.read(against)
    sets = evaluation.sets(least=2 if common is None else 1, against=common)
    opponent = None if common is None else common.name
    matched = evaluation.match(sets if common is None else [*sets, common])
    result = best_checkpoint(evaluation.play(matched, opponent), opponent=opponent, **evaluation.bootstrap)
    evaluation.show(tables.checkpoint_table(result), result, "best.json")


@evaluation_command("length_controlled.json", name="length-controlled")
def length_controlled(
    evaluation: Evaluation,
    *,
    against: Annotated[str, typer.Option(help=f"The baseline: {ONE_FILE}")],
    difficulties: Annotated[
        Path | None,
        typer.Option(help="AlpacaEval's instruction_difficulty.csv (the baseline's order), or a file with prompt (or id) and difficulty."),
    ] = None,
) -> None:
    """Win rates against a baseline at equal lengths; length_controlled.json.

    A SINGLE SET WITHOUT --difficulties IS NOT COMPARABLE WITH ALPACAEVAL 2: it is 6.1 points off on average, up to 21. From two sets on
    the difficulty is estimated (ten sets: 0.8 points). The penalty is the paper's (L2), not the code's (L1: 0.35 points).
    """
    from raypref.evaluation import tables
    from raypref.evaluation.against_baseline import against_baseline, check_lengths
    from raypref.evaluation.difficulties import read_difficulties

    baseline, given = evaluation.read(against), None if difficulties is None else read_difficulties(difficulties)
    if given is not None and not evaluation.partial:
        given.of(evaluation.match([baseline]), baseline)  # refuses them before a policy answers
    sets = evaluation.sets(against=baseline)
    matched = evaluation.match([*sets, baseline])
    check_lengths(matched, baseline.name)
    difficulty = None if given is None else given.of(matched, baseline)
    outcomes = evaluation.play(matched, baseline.name)
    result = against_baseline(outcomes, baseline.name, difficulty=difficulty, **evaluation.bootstrap)
    evaluation.show(tables.length_controlled_table(result), result, "length_controlled.json")


@evaluation_command("best_of_n.json", inputs=("questions", "formats"), name="best-of-n")
def best_of_n(
    evaluation: Evaluation,
    *,
    responses: Annotated[str, typer.Option(help=f"Several responses per prompt: {ONE_FILE}")],
) -> None:
    """Re-rank responses by the oracle's mean score: the best of 1, 2, 4, ... n against the first; best_of_n.json and best.jsonl."""
    import numpy as np

    from raypref.cli.arguments import check_counts
    from raypref.evaluation import reranking, tables
    from raypref.evaluation.exports import write_responses
    from raypref.evaluation.outcomes import summary

    answered = evaluation.read(responses)
    check_counts(answered)
    matched = evaluation.match([answered])
    chosen = evaluation.output / "best.jsonl"
    evaluation.check_targets(chosen)

    async def judge(oracle: OracleRole) -> list[PreferenceMatrix]:
        return list(await asyncio.gather(*(oracle.matrix(matched.rollout(0, number)) for number in range(len(matched.prompts)))))

    judged = evaluation.ask(judge)
    matrices = [matrix.values for matrix in judged]
    picks = [reranking.pick(values) for values in matrices]
    how = {"unit": matched.unit, "oracle": summary(matrix.metrics for matrix in judged), **evaluation.bootstrap}
    result = reranking.best_of_n(matrices, lengths=np.array(matched.each_length(0)), **how)
    write_responses(chosen, answered.picked([best or 0 for best in picks], f"{answered.name}_best"))
    evaluation.show(tables.best_of_table(result), result, "best_of_n.json")


@evaluation_command("revisions.json", "revisions.svg", inputs=("responses", "questions", "match", "formats", "partial"))
def revisions(
    evaluation: Evaluation,
    *,
    against: Annotated[str, typer.Option(help=f"The opponent of every revision: {ONE_FILE}")],
) -> None:
    """The score (1, 0.5, 0) after 0, 1, ... N revisions of each file of raypref generate --revisions N; revisions.json and revisions.svg.

    As SRPO's Figures 3 to 5: mean and deviation over 20 samples of half the prompts, beside the percentile interval.
    """
    from raypref.evaluation import tables
    from raypref.evaluation.figure import save_curves
    from raypref.evaluation.references import RevisionScore, reference_win_rate

    opponent = evaluation.read(against)
    methods = evaluation.methods(opponent.name)
    pairs = [(name, evaluation.match([*rounds, opponent]), rounds) for name, rounds in methods.items()]
    evaluation.check_targets()

    async def compare(oracle: OracleRole) -> list[RevisionScore]:
        how: dict[str, Any] = {"in_flight": evaluation.in_flight, **evaluation.bootstrap}
        points = []
        for name, matched, rounds in pairs:
            for number, answers in enumerate(rounds):
                rate = await reference_win_rate(matched, answers.name, opponent.name, oracle.compare, **how)
                points.append(RevisionScore.of(replace(rate, name=name), number))
        return points

    result = evaluation.ask(compare)
    save_curves(evaluation.output / "revisions.svg", **tables.revision_figure(result, opponent.name))
    evaluation.show(tables.revision_table(result, opponent.name), result, "revisions.json")


@evaluation_command("agreement.json", inputs=())
def agreement(
    evaluation: Evaluation,
    *,
    labels: Annotated[
        Path, typer.Option(help="Comparisons that people judged: prompt, responses (two), label (first, second, tie, or a list of these).")
    ],
    tie_margin: Annotated[float, typer.Option(min=0.0, max=0.5, help="Verdicts within this distance of one half are ties.")] = 0.0,
) -> None:
    """How far the oracle agrees with people: share, Cohen's kappa, labels by verdicts; agreement.json."""
    from raypref.evaluation import tables
    from raypref.evaluation.labelled_comparisons import oracle_agreement

    comparisons = evaluation.comparisons(labels)
    evaluation.check_targets()

    async def compare(oracle: OracleRole) -> Agreement:
        how: dict[str, Any] = {"in_flight": evaluation.in_flight, "tie_margin": tie_margin, **evaluation.bootstrap}
        return await oracle_agreement(comparisons, oracle.compare, **how)

    result = evaluation.ask(compare)
    evaluation.show(tables.agreement_table(result), result, "agreement.json")


@app.command()
def export(
    responses: Annotated[str, typer.Option(help=f"Responses in any format that is read: {ONE_FILE}")],
    layout: Annotated[
        Literal["alpaca_eval", "arena_hard", "arena_hard_v01"],
        typer.Option("--format", help="The benchmark whose own judge will read the file."),
    ],
    output: Annotated[Path, typer.Option(help="The file to write; for Arena-Hard, name it after the model.")],
    questions: Questions = None,
    input_format: Annotated[list[str] | None, typer.Option(help=FORMAT_HELP)] = None,
) -> None:
    """Write responses as AlpacaEval or Arena-Hard read them."""
    from raypref.cli.arguments import check_targets, formats_of, path_of, read_set
    from raypref.evaluation import exports
    from raypref.evaluation.response_files import read_questions

    write = {
        "alpaca_eval": exports.write_alpaca_eval,
        "arena_hard": exports.write_arena_hard_v2,
        "arena_hard_v01": exports.write_arena_hard_v01,
    }
    formats = formats_of(input_format or [])
    replaced = check_targets(output.parent, [], [output], [path_of(responses)[1]])
    write[layout](output, read_set(responses, None if questions is None else read_questions(questions), formats=formats))
    typer.echo(f"{visible(output)}{' (replaced)' if replaced else ''}")
