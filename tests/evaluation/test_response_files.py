"""Files of responses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from raypref.errors import DataError
from raypref.evaluation.response_files import read_questions, read_responses, read_rounds
from raypref.evaluation.response_formats import Asked
from raypref.output.generated_answers import write_chains
from raypref.types import Chain, FinishReason, Prompt, Response


def _lines(path: Path, *rows: Mapping[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_what_raypref_generate_writes(tmp_path: Path) -> None:
    """One prompt, two responses, each revised once: the revisions of 2 and 1 tokens are read, not the first answers of 3 and 3."""

    def response(text: str, tokens: int, reason: FinishReason = "stop") -> Response:
        return Response(np.zeros(tokens, dtype=np.int32), np.zeros(tokens, dtype=np.float32), text, reason)

    first, revised = (response("a", 3), response("b", 3)), (response("c", 2), response("d", 1, "length"))
    write_chains(tmp_path / "mine.jsonl", [Chain(Prompt(0, "q", "Why?", np.zeros(1, dtype=np.int32)), (first, revised), 0)])
    read = read_responses(tmp_path / "mine.jsonl")
    assert read.name == "mine"
    (answers,) = read.answers
    assert (answers.id, answers.prompt, answers.responses, answers.tokens) == ("q", "Why?", ("c", "d"), (2, 1))
    assert answers.finish_reasons == ("stop", "length")


def test_alpaca_eval_outputs(tmp_path: Path) -> None:
    path = tmp_path / "outputs.json"
    rows = [
        {"dataset": "helpful_base", "instruction": "Why?", "output": "", "generator": "m"},
        {"instruction": "Add.", "input": "1 and 2", "output": "3", "generator": "m"},
    ]
    path.write_text(json.dumps(rows))
    read = read_responses(path)
    assert read.name == "m"
    assert [(one.id, one.prompt, one.responses, one.tokens) for one in read.answers] == [
        (None, "Why?", ("",), None),
        (None, "Add.\n\n1 and 2", ("3",), None),
    ]
    assert read_responses(path, "mine").name == "mine"


@pytest.mark.parametrize(
    ("extra", "turn", "tokens"),
    [
        ({}, {"content": "It is.", "token_len": 3}, (3,)),
        ({"conv_metadata": {"token_len": 4}}, {"content": "It is."}, (4,)),
        ({}, "It is.", None),
    ],
)
def test_arena_hard_v01(tmp_path: Path, extra: dict[str, Any], turn: Any, tokens: tuple[int, ...] | None) -> None:
    """The length stands in the turn or in the conversation's metadata; a bare text is a turn too. The prompt is in another file."""
    row = {"question_id": "x1", "answer_id": "a", "model_id": "m", "choices": [{"index": 0, "turns": [turn]}], "tstamp": 1.0}
    path = _lines(tmp_path / "m.jsonl", row | extra)
    (answers,) = read_responses(path).answers
    assert (answers.id, answers.prompt, answers.responses, answers.tokens) == ("x1", None, ("It is.",), tokens)
    questions = read_questions(_lines(tmp_path / "question.jsonl", {"question_id": "x1", "category": "c", "turns": [{"content": "Why?"}]}))
    assert read_responses(path, questions=questions).answers[0].prompt == "Why?"
    with pytest.raises(DataError, match=r"m\.jsonl:1: id 'x1' is not among the 1 questions"):
        read_responses(path, questions={"x2": Asked("Why?")})


def test_arena_hard_v2(tmp_path: Path) -> None:
    """The question is all but the last message; the answer is in a mapping, in some files a bare text."""
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    rows = [
        {"uid": "x1", "model": "m", "messages": [*chat, {"role": "assistant", "content": {"answer": "So."}}], "metadata": {"token_len": 2}},
        {"uid": "x2", "model": "m", "messages": [chat[1], {"role": "assistant", "content": "So."}]},
    ]
    first, second = read_responses(_lines(tmp_path / "m.jsonl", *rows)).answers
    assert (first.prompt, first.chat, first.tokens) == (
        "system: Be brief.\n\nuser: Why?",
        (("system", "Be brief."), ("user", "Why?")),
        (2,),
    )
    assert (second.prompt, second.responses, second.tokens) == ("Why?", ("So.",), None)
    assert read_questions(_lines(tmp_path / "q.jsonl", {"uid": "x1", "prompt": "Why?"})) == {"x1": Asked("Why?")}


def test_questions_keep_their_turns(tmp_path: Path) -> None:
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    questions = read_questions(_lines(tmp_path / "q.jsonl", {"id": 3, "prompt": chat}))
    assert questions == {"3": Asked("system: Be brief.\n\nuser: Why?", (("system", "Be brief."), ("user", "Why?")))}
    row = {"question_id": 3, "choices": [{"turns": ["So."]}]}
    assert read_responses(_lines(tmp_path / "m.jsonl", row), questions=questions).answers[0].chat == questions["3"].chat


_INSTRUCTION = {"instruction": "Add 2 and 2.", "input": "", "output": "4 (the data set's own answer)"}
_GENERATED = {"revisions": [["5"]], "tokens": [[1]], "finish_reasons": ["stop"]}
_ANSWERED = {"prompt": "Add 2 and 2.", "response": "5 (the model's answer)"}


@pytest.mark.parametrize(
    ("row", "first", "second"),
    [
        (_INSTRUCTION | _ANSWERED, "alpaca_eval", "response"),
        (_INSTRUCTION | {"prompt": "Add 2 and 2.", "responses": ["5"]}, "alpaca_eval", "responses"),
        (_INSTRUCTION | {"prompt": "Add 2 and 2.", "responses": ["5"]} | _GENERATED, "generate", "alpaca_eval"),
        (_ANSWERED | {"question_id": 1, "choices": ["4", "5"]}, "arena_hard_v01", "response"),
        (_ANSWERED | {"responses": ["4", "5"]}, "responses", "response"),
        (
            _ANSWERED | {"uid": 1, "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]},
            "arena_hard",
            "response",
        ),
    ],
)
def test_a_row_that_fits_two_formats_is_refused(tmp_path: Path, row: dict[str, Any], first: str, second: str) -> None:
    path = _lines(tmp_path / "m.jsonl", row)
    with pytest.raises(DataError, match=rf"m\.jsonl:1: fits two formats of responses, {first} \(.* and {second} \(.*--format {second}"):
        read_responses(path)
    (answers,) = read_responses(path, layout=second).answers
    assert answers.responses[0][0] in "45"


def test_the_format_decides_what_is_read(tmp_path: Path) -> None:
    path = _lines(tmp_path / "m.jsonl", _INSTRUCTION | _ANSWERED)
    assert read_responses(path, layout="response").answers[0].responses == ("5 (the model's answer)",)
    assert read_responses(path, layout="alpaca_eval").answers[0].responses == ("4 (the data set's own answer)",)


def test_a_later_row_that_fits_two_formats_is_refused(tmp_path: Path) -> None:
    """The first row reads the same in both."""
    same = {"instruction": "Add.", "output": "4", "prompt": "Add.", "response": "4"}
    assert read_responses(_lines(tmp_path / "m.jsonl", same)).answers[0].responses == ("4",)
    for later in (same | {"response": "5"}, same | {"prompt": "Multiply."}):
        with pytest.raises(DataError, match=r"m\.jsonl:2: fits two formats"):
            read_responses(_lines(tmp_path / "m.jsonl", same, later))


def test_an_empty_column_is_no_field(tmp_path: Path) -> None:
    """Parquet files and data sets fill up missing fields with nulls."""
    row = _ANSWERED | {"instruction": None, "output": None, "responses": None}
    assert read_responses(_lines(tmp_path / "m.jsonl", row)).answers[0].responses == ("5 (the model's answer)",)


def test_unknown_formats_are_told_by_name(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"expected generate \(prompt, .*; alpaca_eval \(instruction, output\); .*; response \(prompt, resp"
    ):
        read_responses(_lines(tmp_path / "m.jsonl", {"question": "Why?"}))


def test_columns_of_a_parquet_file(tmp_path: Path) -> None:
    table = pyarrow.table({"prompt": ["a?", "b?"], "responses": [["x", "yz"], ["w", ""]], "tokens": [[1, 2], [1, 1]]})
    pyarrow.parquet.write_table(table, tmp_path / "p.parquet")
    read = read_responses(tmp_path / "p.parquet")
    assert [(one.responses, one.tokens, one.place.split(", ")[1]) for one in read.answers] == [
        (("x", "yz"), (1, 2), "row 1"),
        (("w", ""), (1, 1), "row 2"),
    ]


def test_a_chat_and_one_response(tmp_path: Path) -> None:
    path = _lines(tmp_path / "r.jsonl", {"id": 7, "prompt": [{"role": "user", "content": "Why?"}], "response": "So.", "tokens": 2})
    (answers,) = read_responses(path).answers
    assert (answers.id, answers.prompt, answers.chat, answers.tokens) == ("7", "Why?", (("user", "Why?"),), (2,))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"question": "Why?"}], r"r\.jsonl:1: no known format of responses; fields here: question"),
        ([{"prompt": "a", "response": "b"}, {"prompt": "a"}], r"r\.jsonl:2: no field response, which the file's first record has"),
        ([{"prompt": "a", "response": None}], r"r\.jsonl:1: 'response' must be a text, got None"),
        ([{"prompt": " ", "response": "b"}], r"r\.jsonl:1: 'prompt' is empty"),
        ([{"prompt": 3, "response": "b"}], r"r\.jsonl:1: 'prompt' must be a text or a list of chat messages, got 3"),
        ([{"prompt": "a", "responses": []}], r"r\.jsonl:1: 'responses' is empty"),
        ([{"prompt": "a", "responses": "b"}], r"r\.jsonl:1: 'responses' must be a list, got 'b'"),
        ([{"prompt": "a", "responses": ["b"], "tokens": [1, 2]}], r"r\.jsonl:1: 1 responses, 2 tokens"),
        ([{"prompt": "a", "response": "b", "tokens": -1}], r"r\.jsonl:1: 'tokens' must be counts of tokens, got \[-1\]"),
        ([{"id": 1, "prompt": "a", "response": "b"}] * 2, r"r\.jsonl:2: id '1' is also that of .*r\.jsonl:1"),
        (
            [{"instruction": "a", "output": "b", "generator": "m"}, {"instruction": "c", "output": "d", "generator": "n"}],
            r"r\.jsonl:2: a response of 'n', but .*r\.jsonl:1 has one of 'm'",
        ),
        ([{"question_id": 1, "choices": [{"turns": ["a", "b"]}]}], r"r\.jsonl:1: 'choices\[\]\.turns' must hold one turn"),
        ([{"question_id": 1, "choices": [{"turns": [{"content": None}]}]}], r"r\.jsonl:1: 'turns\[\]\.content' must be a text, got None"),
        ([{"question_id": 1, "choices": ["a"]}], r"r\.jsonl:1: 'choices\[\]' must be an object, got 'a'"),
        ([{"question_id": 1, "choices": []}], r"r\.jsonl:1: 'choices' is empty"),
        (
            [{"uid": 1, "messages": [{"role": "user", "content": "a"}]}],
            r"r\.jsonl:1: 'messages' must be a question and the assistant's answer",
        ),
        ([], r"r\.jsonl: no responses in this file"),
    ],
)
def test_what_is_refused(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_responses(_lines(tmp_path / "r.jsonl", *rows))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"instruction": 1},\n oops]', r"r\.json:2: broken JSON"),
        ('{"instruction": "a"}', r"r\.json:1: no known format of responses; fields here: instruction"),
        ('["a"]', r"r\.json, item 0: expected an object such as .*, got str"),
        ('[{"instruction": "a", "output": "b", "output": "c"}]', r"r\.json: broken JSON: key 'output' occurs twice in one object"),
        ('[{"instruction": "a", "output": "b", "n": ' + "9" * 5000 + "}]", r"r\.json: broken JSON: Exceeds the limit"),
        ("[" * 100_000, r"r\.json: broken JSON: lists or objects are nested too deeply"),
        ('[{"instruction": "a", "output": "\\ud83d"}]', r"item 0: 'output' holds invalid Unicode \(half a surrogate pair\) at position 0"),
        ('{"question_id": null, "choices": [{"turns": ["a"]}]}', r"r\.json:1: 'question_id' must be a text or a number, got None"),
        ('{"prompt": "a", "response": "b", "id": {"x": 1}}', r"r\.json:1: 'id' must be a text or a number, got \{'x': 1\}"),
    ],
)
def test_a_broken_list_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(DataError, match=message):
        read_responses(tmp_path / "r.json")


@pytest.mark.parametrize("name", ["none.json", "none.jsonl", "none"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=rf"{name}: no such file"):
        read_responses(tmp_path / name)


def test_references_in_a_column_of_their_own(tmp_path: Path) -> None:
    """The policy's responses and their lengths in the same file are not read."""
    row = {"id": "a", "prompt": "Why?", "responses": ["x", "y"], "tokens": [1, 1]}
    path = _lines(tmp_path / "r.jsonl", row | {"reference": "So."}, row | {"id": "b", "reference": ["So.", "Thus."]})
    first, second = read_responses(path, "gold", column="reference").answers
    assert (first.id, first.prompt, first.responses, first.tokens) == ("a", "Why?", ("So.",), None)
    assert second.responses == ("So.", "Thus.")
    with pytest.raises(DataError, match=r"r\.jsonl:1: no field 'gold'; fields here: id, prompt, responses, tokens, reference"):
        read_responses(path, column="gold")


def test_questions_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"q\.jsonl:2: id 'a' is there twice"):
        read_questions(_lines(tmp_path / "q.jsonl", {"uid": "a", "prompt": "x"}, {"uid": "a", "prompt": "y"}))
    with pytest.raises(DataError, match=r"q\.jsonl:1: a question needs question_id, uid or id; fields here: prompt"):
        read_questions(_lines(tmp_path / "q.jsonl", {"prompt": "x"}))
    with pytest.raises(DataError, match=r"q\.jsonl:1: 'turns' must hold one turn, got None"):
        read_questions(_lines(tmp_path / "q.jsonl", {"question_id": "x"}))


def test_rounds_of_revisions(tmp_path: Path) -> None:
    """Two responses, each revised once: round 0 has the first answers, round 1 the revisions."""

    def response(text: str) -> Response:
        return Response(np.zeros(len(text), dtype=np.int32), np.zeros(len(text), dtype=np.float32), text, "stop")

    prompt = Prompt(0, "q", "Why?", np.zeros(1, dtype=np.int32))
    rounds = ((response("a"), response("bb")), (response("ccc"), response("d")))
    write_chains(tmp_path / "mine.jsonl", [Chain(prompt, rounds, 0)])
    first, second = read_rounds(tmp_path / "mine.jsonl")
    assert (first.name, first.answers[0].responses, first.answers[0].tokens) == ("0 revisions", ("a", "bb"), (1, 2))
    assert (second.name, second.answers[0].responses, second.answers[0].tokens) == ("1 revisions", ("ccc", "d"), (3, 1))


def test_rounds_of_unequal_numbers_are_refused(tmp_path: Path) -> None:
    row = {"id": "q", "prompt": "Why?", "responses": ["b"], "tokens": [[1, 1]], "revisions": [["a", "b"]], "finish_reasons": ["stop"]}
    path = _lines(tmp_path / "mine.jsonl", row, row | {"id": "r", "tokens": [[1]], "revisions": [["a"]]})
    with pytest.raises(DataError, match=r"mine\.jsonl:2: 'revisions' and 'tokens' must list as many answers"):
        read_rounds(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"revisions": 3}, "'revisions' must hold a list of texts for each response, got 3"),
        ({"revisions": ["ab"]}, "'revisions' must hold a list of texts"),
        ({"revisions": [["a", None]]}, "'revisions' must hold a list of texts"),
        ({"tokens": [1]}, "'tokens' must hold a list of counts"),
    ],
)
def test_rounds_that_are_none_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    row = {"id": "q", "prompt": "Why?", "responses": ["b"], "tokens": [[1, 1]], "revisions": [["a", "b"]], "finish_reasons": ["stop"]}
    with pytest.raises(DataError, match=rf"mine\.jsonl:1: {message}"):
        read_rounds(_lines(tmp_path / "mine.jsonl", row | change))


@pytest.mark.parametrize(
    "content", [b'\xef\xbb\xbf[{"prompt": "p", "response": "a", "id": 7.0}]', b'{"prompt": "p", "response": "a", "id": 7}\n']
)
def test_a_json_file_with_a_mark_or_of_lines(tmp_path: Path, content: bytes) -> None:
    """As data files are read: a byte order mark, lines in a file named .json; 7.0 is the id 7."""
    (tmp_path / "r.json").write_bytes(content)
    (answers,) = read_responses(tmp_path / "r.json").answers
    assert (answers.prompt, answers.responses, answers.id) == ("p", ("a",), "7")


def test_reasons_that_are_lists_are_refused(tmp_path: Path) -> None:
    row = {"prompt": "p", "responses": ["a"], "revisions": [["a"]], "tokens": [[1]], "finish_reasons": [["stop"]]}
    with pytest.raises(DataError, match=r"r\.jsonl:1: 'finish_reasons' must be stop or length, got \[\['stop'\]\]"):
        read_responses(_lines(tmp_path / "r.jsonl", row))


@pytest.mark.parametrize(
    "record",
    [
        {"instruction": "Sum up.", "output": "a", "system": "Be brief."},
        {"instruction": "Sum up.", "output": "a", "context": "The text."},
        {"prompt": "Sum up.", "response": "a", "system_prompt": "Be brief."},
        {"prompt": "Sum up.", "responses": ["a"], "history": [["Hi", "Hello"]]},
        {"uid": "1", "messages": [{"role": "user", "content": "Sum up."}, {"role": "assistant", "content": "a"}], "system": "Be brief."},
    ],
)
def test_a_part_of_the_prompt_in_a_field_of_its_own_is_refused(tmp_path: Path, record: dict[str, Any]) -> None:
    """As a run refuses it; otherwise an oracle would be asked about another prompt than the policy answered."""
    with pytest.raises(DataError, match=r"r\.jsonl:1: the field '\w+' belongs to a prompt, but is not in .*leave the field out"):
        read_responses(_lines(tmp_path / "r.jsonl", record))


def test_a_part_of_the_prompt_beside_a_column_or_a_question_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the field 'system' belongs to a prompt"):
        read_responses(_lines(tmp_path / "r.jsonl", {"prompt": "Sum up.", "reference": "a", "system": "Be brief."}), column="reference")
    for question in ({"question_id": 1, "turns": ["Sum up."]}, {"id": "1", "prompt": "Sum up."}):
        with pytest.raises(DataError, match="the field 'system' belongs to a prompt"):
            read_questions(_lines(tmp_path / "q.jsonl", {**question, "system": "Be brief."}))


def test_a_part_that_stands_in_the_prompt_is_no_contradiction(tmp_path: Path) -> None:
    record = {"instruction": "Sum up.", "input": "The text.", "output": "a", "system": ""}
    (answers,) = read_responses(_lines(tmp_path / "r.json", record)).answers
    assert answers.prompt == "Sum up.\n\nThe text."
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Sum up."}]
    (answers,) = read_responses(_lines(tmp_path / "c.jsonl", {"prompt": chat, "response": "a", "system": "Be brief."})).answers
    assert answers.chat == (("system", "Be brief."), ("user", "Sum up."))


@pytest.mark.parametrize(
    "fields",
    [
        {"instruction": "Sum up.", "output": "a"},
        {"uid": "1", "messages": [{"role": "user", "content": "Sum up."}, {"role": "assistant", "content": "a"}]},
    ],
)
def test_tools_are_shown_to_the_oracle_in_every_format(tmp_path: Path, fields: dict[str, Any]) -> None:
    (answers,) = read_responses(_lines(tmp_path / "r.jsonl", {**fields, "tools": [{"name": "search"}]})).answers
    assert answers.chat == (("system", 'tools: [{"name": "search"}]'), ("user", "Sum up."))


@pytest.mark.parametrize("wrong", [{"question_id": True, "turns": ["Why?"]}, {"id": False, "prompt": "Why?"}])
def test_a_truth_value_is_no_id(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"q\.jsonl:1: '(question_)?id' must be a text or a number, got (True|False)"):
        read_questions(_lines(tmp_path / "q.jsonl", wrong))
