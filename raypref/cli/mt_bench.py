"""``raypref mt-bench``: the policy answers MT-Bench's questions, both turns, and a judge grades the answers; files as FastChat has them."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raypref.cli.options import EvaluationFile, Overrides
from raypref.output.terminal import print_table, visible

if TYPE_CHECKING:
    from collections.abc import Sequence

    from raypref.data.policy_facts import PolicyFacts
    from raypref.evaluation.mt_bench.questions import Mode
    from raypref.oracles.base import Chat
    from raypref.oracles.judge import ChatJudge
    from raypref.roles import RolloutRole

app = typer.Typer(no_args_is_help=True, help="MT-Bench: answers in two turns, grades by category, in FastChat's files.")

QuestionFile = Annotated[Path, typer.Option(help="The questions (FastChat's question.jsonl).")]


@app.command()
def answer(
    config: Annotated[Path, typer.Argument(help="A run's YAML file, or a run and an iteration (runs/x@2): whose policy answers.")],
    overrides: Overrides = None,
    *,
    questions: QuestionFile,
    output: Annotated[Path, typer.Option(help="JSONL file to write. FastChat takes its name for the model's.")],
    choices: Annotated[int, typer.Option(min=1, help="Answers per question; the judge reads the first.")] = 1,
    temperature: Annotated[float | None, typer.Option(min=0.0, help="For all categories. Default: FastChat's own for each.")] = None,
) -> None:
    """Have the policy answer, and then answer the follow-up with its own first answer before it."""
    from raypref.cli.arguments import run_config
    from raypref.compose import with_policy
    from raypref.evaluation.mt_bench import files
    from raypref.loop.conversation import Conversations, Turns
    from raypref.metrics.answering import Answering
    from raypref.metrics.progress import ended
    from raypref.output.targets import check_file

    check_file("--output", output, {"--questions": questions})
    asked = files.read_questions(questions)
    turns = [Turns(str(one.id), one.turns, one.temperature if temperature is None else temperature) for one in asked]
    settings = run_config(config, overrides or []).model_copy(update={"output_dir": output.absolute().parent})

    async def converse(rollout: RolloutRole, facts: PolicyFacts) -> list[list[list[str]]]:
        return await Conversations(settings, facts).hold(rollout, turns, choices, shown.on_conversation)

    shown = Answering(len(turns))
    with ended([shown]):
        answers = with_policy(settings, converse, [shown])
    files.write_answers(output, output.stem, {one.id: found for one, found in zip(asked, answers, strict=True)})
    typer.echo(visible(output))


@app.command()
def grade(
    config: EvaluationFile,
    overrides: Overrides = None,
    *,
    questions: QuestionFile,
    answers: Annotated[list[str], typer.Option(help="NAME=FILE, or FILE: answers to grade; as often as there are models.")],
    prompts: Annotated[Path, typer.Option(help="What the judge is asked (FastChat's judge_prompts.jsonl).")],
    output: Annotated[Path, typer.Option(help="Directory of the judgments and of mt_bench.json. An interrupted call goes on there.")],
    references: Annotated[Path | None, typer.Option(help="Reference answers, for math, reasoning and coding.")] = None,
    against: Annotated[str | None, typer.Option(metavar="NAME", help="Compare every other model with this one, in both orders.")] = None,
) -> None:
    """Have the judge of the oracle section grade answers from 1 to 10, or compare them; scores by turn and category."""
    from raypref.cli.arguments import check_names, path_of, run_config
    from raypref.errors import ConfigError
    from raypref.evaluation.mt_bench import files, scores, tables
    from raypref.evaluation.mt_bench.grading import grade as grade_all
    from raypref.evaluation.mt_bench.grading import gradings
    from raypref.evaluation.tables import write_json
    from raypref.output.targets import check_directory, check_file

    settings = run_config(config, overrides or [])
    judge = _judge(settings.oracle)
    paths = {name or path.stem: path for name, path in map(path_of, answers)}
    check_names([name or path.stem for name, path in map(path_of, answers)], 1 if against is None else 2)
    if against is not None and against not in paths:
        raise ConfigError(f"--against {against}: there are no --answers of that name; there are {', '.join(paths)}")
    asked = files.read_questions(questions)
    given = {name: files.read_answers(path, asked) for name, path in paths.items()}
    reference = {} if references is None else files.read_answers(references)
    mode: Mode = "single" if against is None else "pair"
    items = gradings(asked, given, files.read_prompts(prompts, mode), reference, against)
    check_directory("--output", output)
    judgments = output / f"{judge.model.replace('/', '_')}_{mode}.jsonl"
    table = output / ("mt_bench.json" if mode == "single" else "mt_bench_pairs.json")
    for path in (judgments, table):
        check_file("--output", path, {f"--answers {name}": path for name, path in paths.items()})

    def told(done: int) -> None:
        typer.echo(f"{done} of {len(items)} judgments", err=True)

    with contextlib.closing(judge.opened()) as endpoint:

        def ask(chats: Sequence[Chat]) -> list[str | None]:
            return [reply.text for reply in endpoint.ask(chats)]

        graded = grade_all(items, ask, judge.model, judgments, 4 * judge.concurrency, told)
    evaluation = settings.evaluation
    bootstrap = {"resamples": evaluation.bootstrap_resamples, "confidence": evaluation.confidence, "seed": settings.seed}
    if mode == "single":
        results = scores.scores(graded, asked, **bootstrap)
        print_table(tables.score_table(results))
        write_json(table, results)
    else:
        compared = scores.pair_scores(graded, asked, **bootstrap)
        print_table(tables.pair_table(compared))
        write_json(table, compared)
    typer.echo(visible(judgments))


def _judge(oracle: object) -> ChatJudge:
    from raypref.errors import ConfigError
    from raypref.oracles.judge import ChatJudge

    if not isinstance(oracle, ChatJudge):
        raise ConfigError("oracle: MT-Bench needs the judge, a model behind an endpoint: oracle={type: judge, model: ..., base_url: ...}")
    return oracle
