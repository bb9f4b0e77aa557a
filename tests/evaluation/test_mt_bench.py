"""MT-Bench: FastChat's files field by field, what the judge is asked, what its replies mean, scores derived by hand."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from raypref.cli.app import app
from raypref.errors import ConfigError, DataError, OracleError
from raypref.evaluation.mt_bench.files import read_answers, read_prompts, read_questions, write_answers
from raypref.evaluation.mt_bench.grading import grade, gradings
from raypref.evaluation.mt_bench.judgments import Grading, read_rating, read_winner
from raypref.evaluation.mt_bench.questions import TEMPERATURES, Mode
from raypref.evaluation.mt_bench.scores import pair_scores, scores
from raypref.oracles.base import Chat
from tests.oracles.http_server import Request, completion, refusal, serving

SHARED = Path(os.environ["RAYPREF_TEST_DATA"]) / "mt_bench" if "RAYPREF_TEST_DATA" in os.environ else None
BOOTSTRAP: dict[str, Any] = {"resamples": 200, "confidence": 0.95, "seed": 0}
QUESTIONS = [
    {"question_id": 81, "category": "writing", "turns": ["Write {a} line.", "Shorter."]},
    {"question_id": 111, "category": "math", "turns": ["1 + 1?", "And 2 + 2?"], "reference": ["2", "4"]},
]
PROMPTS = [
    ("single-v1", "Q {question} A {answer}"),
    ("single-math-v1", "Q {question} R {ref_answer_1} A {answer}"),
    ("single-v1-multi-turn", "Q1 {question_1} A1 {answer_1} Q2 {question_2} A2 {answer_2}"),
    ("single-math-v1-multi-turn", "R1 {ref_answer_1} R2 {ref_answer_2} A1 {answer_1} A2 {answer_2} Q {question_1} {question_2}"),
    ("pair-v2", "Q {question} A {answer_a} B {answer_b}"),
    ("pair-math-v1", "Q {question} R {ref_answer_1} A {answer_a} B {answer_b}"),
    ("pair-v2-multi-turn", "{question_1} {question_2} A {answer_a_1} {answer_a_2} B {answer_b_1} {answer_b_2}"),
    ("pair-math-v1-multi-turn", "{ref_answer_1} {ref_answer_2} A {answer_a_1} {answer_a_2} B {answer_b_1} {answer_b_2}"),
]


def _lines(path: Path, records: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture
def files(tmp_path: Path) -> Path:
    _lines(tmp_path / "question.jsonl", QUESTIONS)
    _lines(tmp_path / "prompts.jsonl", [{"name": name, "system_prompt": f"be {name}", "prompt_template": text} for name, text in PROMPTS])
    write_answers(tmp_path / "gpt-4.jsonl", "gpt-4", {111: [["two", "four"]]})
    for model in "ab":
        write_answers(tmp_path / f"{model}.jsonl", model, {81: [[f"{model}1", f"{model}2"]], 111: [[f"{model}3", f"{model}4"]]})
    return tmp_path


def _items(files: Path, against: str | None = None, models: str = "ab") -> list[Grading]:
    asked = read_questions(files / "question.jsonl")
    given = {name: read_answers(files / f"{name}.jsonl", asked) for name in models}
    mode: Mode = "single" if against is None else "pair"
    return gradings(
        asked,
        given,
        read_prompts(files / "prompts.jsonl", mode),
        read_answers(files / "gpt-4.jsonl"),
        against,
    )


def test_answers_are_written_field_by_field_as_fastchat_writes_them(tmp_path: Path) -> None:
    """Its scripts find an answer by question_id, read choices[0].turns and sort by int(question_id)."""
    write_answers(tmp_path / "mine.jsonl", "mine", {81: [["one", "two"], ["eins", "zwei"]]})
    (line,) = (tmp_path / "mine.jsonl").read_text().splitlines()
    record = json.loads(line)
    assert list(record) == ["question_id", "answer_id", "model_id", "choices", "tstamp"]
    assert (record["question_id"], record["model_id"]) == (81, "mine")
    assert record["choices"] == [{"index": 0, "turns": ["one", "two"]}, {"index": 1, "turns": ["eins", "zwei"]}]
    assert len(record["answer_id"]) == 22
    assert record["tstamp"] > 1.7e9


def test_the_judge_is_asked_by_category_and_turn(files: Path) -> None:
    """The reference stands in the question of math alone; braces in a text stay braces."""
    assert [(item.question.id, item.turn, item.prompt.name, item.texts) for item in _items(files, models="a")] == [
        (81, 1, "single-v1", ("Q Write {a} line. A a1",)),
        (111, 1, "single-math-v1", ("Q 1 + 1? R two A a3",)),
        (81, 2, "single-v1-multi-turn", ("Q1 Write {a} line. A1 a1 Q2 Shorter. A2 a2",)),
        (111, 2, "single-math-v1-multi-turn", ("R1 two R2 four A1 a3 A2 a4 Q 1 + 1? And 2 + 2?",)),
    ]


def test_a_pair_is_shown_in_both_orders(files: Path) -> None:
    first, *_ = _items(files, against="b")
    assert (first.models, first.texts) == (("a", "b"), ("Q Write {a} line. A a1 B b1", "Q Write {a} line. A b1 B a1"))
    assert len(_items(files, against="b")) == 4


@pytest.mark.parametrize(
    ("reply", "rating"),
    [
        ("Rating: [[5]]", 5),
        ("[[7.5]] for [[9]]", 7.5),
        ("[4] alone", 4),
        ("[3], Rating: [[8]]", 8),
        ("none", -1),
        ("[[11]]", -1),
        ("[[0]]", -1),
    ],
)
def test_a_rating_is_read_as_fastchat_reads_it(reply: str, rating: float) -> None:
    """The first double bracket, or else the first single one. A rating that the scale does not have is none."""
    assert read_rating(reply) == rating


def test_a_winner_is_read_as_fastchat_reads_it() -> None:
    assert [read_winner(reply, "model_1", "model_2") for reply in ("so [[A]]", "[[B]].", "[[C]]", "[[D]]")] == [
        "model_1",
        "model_2",
        "tie",
        "error",
    ]


def test_judgments_have_fastchats_fields(files: Path) -> None:
    """In the second order A is the second model: [[A]] twice is a win for each."""
    (single, *_) = grade(_items(files), lambda chats: ["[[6]]"] * len(chats), "gpt-4", files / "single.jsonl", 3)
    assert {key: value for key, value in single.items() if key != "tstamp"} == {
        "question_id": 81,
        "model": "a",
        "judge": ["gpt-4", "single-v1"],
        "user_prompt": "Q Write {a} line. A a1",
        "judgment": "[[6]]",
        "score": 6,
        "turn": 1,
    }
    (pair, *_) = grade(_items(files, against="b"), lambda chats: ["[[A]]"] * len(chats), "gpt-4", files / "pair.jsonl", 3)
    names = [f"g{number}_{part}" for number in (1, 2) for part in ("winner", "user_prompt", "judgment")]
    assert set(pair) == {"question_id", "model_1", "model_2", "judge", "turn", "tstamp", *names}
    assert (pair["model_1"], pair["g1_winner"], pair["g2_winner"]) == ("a", "model_1", "model_2")


def test_an_interrupted_call_asks_only_for_what_is_missing(files: Path) -> None:
    """Failed requests are not written and named; a line that was cut off is asked for again; other answers are refused."""
    asked: list[Chat] = []

    def ask(chats: Sequence[Chat]) -> list[str | None]:
        asked.extend(chats)
        return [None if "b1" in chat[1][1] and len(asked) <= 8 else "[[5]]" for chat in chats]

    path = files / "judgments.jsonl"
    with pytest.raises(OracleError, match="2 of 8 judgments are missing, since requests failed"):
        grade(_items(files), ask, "j", path, 4)
    assert (len(asked), len(path.read_text().splitlines())) == (8, 6)
    path.write_bytes(path.read_bytes()[:-20])
    assert len(grade(_items(files), ask, "j", path, 4)) == 8
    assert (len(asked), len(path.read_text().splitlines())) == (11, 8)
    assert len(grade(_items(files), ask, "another", path, 4)) == 8, "another judge's judgments stand in the same file"
    assert len(asked) == 19
    write_answers(files / "a.jsonl", "a", {81: [["new", "a2"]], 111: [["a3", "a4"]]})
    with pytest.raises(DataError, match="question 81, turn 1, a is of other answers"):
        grade(_items(files), ask, "j", path, 4)


def test_scores_by_hand(files: Path) -> None:
    """a: 81 has 8 and 4, 111 has 6 and no rating: (8 + 4 + 6) / 3; turns (8 + 6) / 2 and 4; b has nothing readable."""
    replies = {("a", 81, 1): 8, ("a", 81, 2): 4, ("a", 111, 1): 6}
    judgments = [
        {"question_id": question, "model": model, "turn": turn, "score": replies.get((model, question, turn), -1)}
        for model in "ba"
        for question in (81, 111)
        for turn in (1, 2)
    ]
    best, other = scores(judgments, read_questions(files / "question.jsonl"), **BOOTSTRAP)
    assert (best.model, best.score, best.turns, best.categories) == ("a", 6.0, {1: 7.0, 2: 4.0}, {"writing": 6.0, "math": 6.0})
    assert (best.judgments, best.unreadable, other.unreadable) == (4, 1, 4)
    assert best.low <= 6.0 <= best.high
    assert math.isnan(other.score)


def test_a_win_in_one_order_alone_is_a_tie(files: Path) -> None:
    """Won, lost, tied, split, unreadable: 1 + 0 + 1/2 + 1/2 of 4; one of the four pairs disagrees."""
    winners = [("model_1",) * 2, ("model_2",) * 2, ("tie", "model_1"), ("model_1", "model_2"), ("error", "model_1")]
    judgments = [
        {"question_id": 81, "model_1": "a", "model_2": "b", "g1_winner": first, "g2_winner": second, "turn": 1} for first, second in winners
    ]
    (result,) = pair_scores(judgments, read_questions(files / "question.jsonl"), **BOOTSTRAP)
    assert (result.win_rate, result.wins, result.losses, result.ties, result.unreadable) == (0.5, 1, 1, 2, 1)
    assert result.other_order_disagrees == 0.25


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"category": None}, r"question.jsonl:1: 'category' must be a text"),
        ({"turns": "one"}, r"question.jsonl:1: 'turns' must be a list of texts"),
        ({"turns": ["", "b"]}, r"question.jsonl:1: 'turns' must hold texts that are not empty"),
        ({"question_id": 111}, r"question.jsonl:2: question_id 111 is also that of .*question.jsonl:1"),
    ],
)
def test_a_broken_question_is_named(files: Path, change: dict[str, Any], message: str) -> None:
    _lines(files / "question.jsonl", [QUESTIONS[0] | change, QUESTIONS[1]])
    with pytest.raises(DataError, match=message):
        read_questions(files / "question.jsonl")


def test_an_answer_that_is_missing_is_named(files: Path) -> None:
    write_answers(files / "a.jsonl", "a", {81: [["only one"]]})
    with pytest.raises(DataError, match="question 81 has 1 of 2 answers"):
        read_answers(files / "a.jsonl", read_questions(files / "question.jsonl"))


@pytest.mark.skipif(SHARED is None, reason="RAYPREF_TEST_DATA names no directory")
def test_the_benchmarks_own_files_are_read(tmp_path: Path) -> None:
    """80 questions of two turns; 30 of them with a reference answer of GPT-4: 160 grades, 60 of them with it."""
    assert SHARED is not None
    asked = read_questions(SHARED / "mt_bench_question.jsonl")
    references = read_answers(SHARED / "mt_bench_reference_gpt-4.jsonl")
    write_answers(tmp_path / "a.jsonl", "a", {one.id: [["first", "second"]] for one in asked})
    answers = {"a": read_answers(tmp_path / "a.jsonl", asked)}
    items = gradings(asked, answers, read_prompts(SHARED / "judge_prompts.jsonl", "single"), references)
    assert (len(asked), len(items)) == (80, 160)
    assert sum("Reference" in text for item in items for text in item.texts) == 60
    assert {one.category for one in asked} == set(TEMPERATURES)


def test_grade_by_command(files: Path) -> None:
    """A judge behind an endpoint that gives 9 to the answers of a and 3 to those of b, and [[A]] to whoever stands first."""

    def reply(request: Request) -> Any:
        if "be pair" in request.body["messages"][0]["content"]:
            return completion("[[A]]")
        return completion(f"Rating: [[{9 if ' a' in request.text else 3}]]")

    def command(*arguments: str) -> Any:
        common = ["--questions", "question.jsonl", "--prompts", "prompts.jsonl", "--references", "gpt-4.jsonl"]
        paths = [str(files / argument) if argument.endswith(".jsonl") else argument for argument in common]
        answers = [f"--answers={name}={files / name}.jsonl" for name in "ab"]
        return CliRunner().invoke(
            app, ["mt-bench", "grade", str(files / "run.yaml"), *paths, *answers, "--output", str(files / "out"), *arguments]
        )

    with serving(reply) as server:
        oracle = {"type": "judge", "model": "org/judge", "base_url": server.url, "key_env": None}
        (files / "run.yaml").write_text(yaml.safe_dump({"policy": {"path": "p"}, "loss": {"type": "sppo"}, "oracle": oracle}))
        result = command()
        assert result.exit_code == 0, result.output
        written = json.loads((files / "out" / "mt_bench.json").read_text())
        assert [(one["model"], one["score"], one["judgments"]) for one in written] == [("a", 9.0, 4), ("b", 3.0, 4)]
        assert len((files / "out" / "org_judge_single.jsonl").read_text().splitlines()) == 8 == len(server.requests)
        assert (command().exit_code, len(server.requests)) == (0, 8), "nothing is asked twice"
        assert command("--against", "b").exit_code == 0
        (pair,) = json.loads((files / "out" / "mt_bench_pairs.json").read_text())
        assert (pair["win_rate"], pair["ties"], pair["other_order_disagrees"]) == (0.5, 4, 1.0)
        assert isinstance(command("--against", "c").exception, ConfigError)
        for name in ("mt_bench.json", "org_judge_single.jsonl"):
            (files / "out" / name).rename(files / "out" / "kept")
            (files / "out" / name).mkdir()
            asked = len(server.requests)
            assert f"--output: {files / 'out' / name} is a directory" in str(command().exception)
            assert len(server.requests) == asked, "noticed before anything is asked"
            (files / "out" / name).rmdir()
            (files / "out" / "kept").rename(files / "out" / name)
        server.answer = lambda request: refusal(400, "no")
        (files / "out" / "org_judge_single.jsonl").unlink()
        assert isinstance(command().exception, OracleError)
    assert isinstance(command("oracle={type: callable, function: 'm:f'}").exception, ConfigError)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (
            {"id": "a", "answer": "b"},
            r"\(g1_user_prompt, g1_winner, g2_user_prompt, g2_winner, judge, model_1, .* missing\); remove the file",
        ),
        (
            {"question_id": 1, "turn": 1, "judge": "j", "model": "m", "user_prompt": "", "score": 1},
            r"\(judge, which is \[model, prompt\] missing\)",
        ),
        ({"question_id": 1, "turn": 1, "judge": ["j", "p"], "model": "m", "user_prompt": ""}, r"\(score missing\)"),
    ],
)
def test_a_file_of_something_else_in_place_of_judgments(tmp_path: Path, record: dict[str, Any], message: str) -> None:
    (tmp_path / "j.jsonl").write_text(json.dumps(record) + "\n")
    with pytest.raises(DataError, match=rf"j\.jsonl:1: no judgment of MT-Bench {message}"):
        grade([], lambda chats: [], "j", tmp_path / "j.jsonl", 1)
