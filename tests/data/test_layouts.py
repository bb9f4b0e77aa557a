"""Every layout of given preferences: prompt, answers and verdicts, worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from raypref.data.config import DataConfig
from raypref.data.layouts import GivenPreferences, read_preferences
from raypref.data.records import Record
from raypref.errors import DataError

PAIR = [[0.5, 1.0], [0.0, 0.5]]


def read(values: dict[str, Any], **config: Any) -> GivenPreferences:
    return read_preferences(Record(values, "data.jsonl:7"), DataConfig(**config))


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def turns(found: GivenPreferences) -> list[Any]:
    return list(found.prompt)


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def test_pair_of_texts() -> None:
    found = read({"prompt": "Why?", "chosen": "so", "rejected": "no"})
    assert (found.prompt, found.responses, found.values.tolist()) == ("Why?", ("so", "no"), PAIR)


def test_ultrafeedback_binarized() -> None:
    """A prompt, and both chats with the prompt's turn in front; the scores 8 and 6 make P = sigmoid(2) with soft verdicts."""
    values = {
        "prompt": "Why?",
        "chosen": [user("Why?"), assistant("so")],
        "rejected": [user("Why?"), assistant("no")],
        "score_chosen": 8.0,
        "score_rejected": 6.0,
    }
    assert (read(values).prompt, read(values).responses, read(values).values.tolist()) == ("Why?", ("so", "no"), PAIR)
    soft = 1 / (1 + np.exp(-2))
    np.testing.assert_allclose(read(values, verdicts="soft").values, [[0.5, soft], [1 - soft, 0.5]])
    np.testing.assert_allclose(read(values, verdicts="soft", score_scale=0.5).values[0, 1], 1 / (1 + np.exp(-1)))


def test_answers_as_chats_beside_a_chat_prompt() -> None:
    values = {"prompt": [user("Why?")], "chosen": [assistant("so")], "rejected": [assistant("no")]}
    assert (turns(read(values)), read(values).responses) == ([user("Why?")], ("so", "no"))


def test_conversations_without_a_prompt() -> None:
    """What both share is the prompt, be the answers equal in their role or not."""
    common = [user("Hi"), assistant("Hello"), user("Why?")]
    found = read({"chosen": [*common, assistant("so")], "rejected": [*common, assistant("no")]}, template="chat")
    assert (turns(found), found.responses) == (common, ("so", "no"))


HH = {
    "chosen": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Why?\n\nAssistant: so",
    "rejected": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Why?\n\nAssistant: no",
}


def test_hh_transcripts() -> None:
    found = read(HH)
    assert (turns(found), found.responses) == ([user("Hi"), assistant("Hello"), user("Why?")], ("so", "no"))
    plain = read(HH, chat_template=False)
    assert plain.prompt == "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Why?\n\nAssistant:"
    assert plain.responses == (" so", " no")


def test_alpaca_farm() -> None:
    values = {"instruction": "Add.", "input": "1 1", "output_1": "3", "output_2": "2", "preference": 2}
    assert (read(values).prompt, read(values).responses, read(values).values.tolist()) == ("Add.\n\n1 1", ("2", "3"), PAIR)
    assert read(values | {"input": "", "preference": 1}).prompt == "Add."


def test_summarize_from_feedback() -> None:
    """The prompt is composed of ``info`` by the template (SRPO Appendix C.1); choice 1 is the second summary."""
    info = {"subreddit": "r/x", "title": "T", "post": "P"}
    found = read({"info": info, "summaries": [{"text": "a"}, {"text": "b"}], "choice": 1}, template="tldr")
    assert found.responses == ("b", "a")
    assert found.values.tolist() == PAIR
    assert str(found.prompt).splitlines()[1:] == ["SUBREDDIT: r/x", "TITLE: T", "POST: P", "TL;DR:"]


def test_ranking() -> None:
    """[2, 0, 1]: the third beats the first, which beats the second."""
    found = read({"prompt": "Why?", "responses": ["a", "b", "c"], "ranking": [2, 0, 1]})
    assert found.responses == ("c", "a", "b")
    assert found.values.tolist() == [[0.5, 1, 1], [0, 0.5, 1], [0, 0, 0.5]]


def test_scores_with_a_tie() -> None:
    """1, 3, 3: the two equal ones stay in their order and are a tie; soft, P(b > a) = sigmoid(2)."""
    values = {"prompt": "Why?", "responses": ["a", "b", "c"], "scores": [1, 3, 3]}
    found = read(values)
    assert found.responses == ("b", "c", "a")
    assert found.values.tolist() == [[0.5, 0.5, 1], [0.5, 0.5, 1], [0, 0, 0.5]]
    soft = read(values, verdicts="soft").values
    np.testing.assert_allclose(soft[0], [0.5, 0.5, 1 / (1 + np.exp(-2))])
    np.testing.assert_allclose(soft + soft.T, 1.0)
    assert read({"prompt": "x", "responses": ["a", "b"], "scores": [0, 2000]}, verdicts="soft").values.tolist() == PAIR


def test_best_of_n_leaves_the_others_open() -> None:
    found = read({"prompt": "Why?", "responses": ["a", "b", "c"], "best": 1})
    assert found.responses == ("b", "a", "c")
    np.testing.assert_array_equal(found.values, [[0.5, 1, 1], [0, 0.5, np.nan], [0, np.nan, 0.5]])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"prompt": "x", "answer": "y"}, r"no layout of preference data fits; fields here: prompt, answer"),
        ({"prompt": "x", "chosen": "y", "rejected": " "}, "must be a text that is not empty, got ' '"),
        ({"prompt": "x", "chosen": "y", "rejected": [assistant("n")]}, "must both be texts, or both be chats"),
        ({"chosen": "y", "rejected": "n"}, "transcripts of Human: and Assistant: turns"),
        ({"chosen": HH["chosen"], "rejected": "\n\nHuman: Other\n\nAssistant: no"}, "transcripts of Human: and Assistant: turns"),
        ({"prompt": "x", "responses": ["a"], "best": 0}, "a list of at least two answers"),
        ({"prompt": "x", "responses": ["a", "b"], "ranking": [1, 2]}, r"numbers 0 to 1 of the answers, best first, got \[1, 2\]"),
        ({"prompt": "x", "responses": ["a", "b"], "scores": [1]}, "1 numbers in 'scores' for 2 answers"),
        ({"prompt": "x", "responses": ["a", "b"], "scores": [1, float("nan")]}, "must be a finite number, got nan"),
        ({"prompt": "x", "responses": ["a", "b"], "best": 2}, "must be the number of an answer, 0 to 1, got 2"),
        ({"prompt": "x", "responses": ["a", "b"]}, "no field 'best'"),
        ({"instruction": "x", "output_1": "a", "output_2": "b", "preference": 0}, r"must be 1 \(output_1 is better\) or 2, got 0"),
        ({"chosen": [user("x"), user("y")], "rejected": [user("x"), assistant("y")]}, "there must be one assistant's turn"),
    ],
)
def test_what_is_no_preference_is_refused_with_its_place(values: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=f"data.jsonl:7: .*{message}"):
        read(values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"prompt": "q", "responses": ["a", "b"], "ranking": 1}, r"numbers 0 to 1 of the answers, best first, got 1"),
        ({"prompt": "q", "responses": ["a", "b"], "ranking": [1.5, 0]}, r"numbers 0 to 1 .* got \[1\.5, 0\]"),
        ({"prompt": "q", "responses": ["a", "b"], "ranking": [True, False]}, r"numbers 0 to 1"),
        ({"prompt": "q", "responses": ["a", "b"], "scores": 5}, r"'scores' must be a list with a number for each answer, got 5"),
        ({"prompt": "q", "responses": ["a", "b"], "scores": ["good", 1]}, r"must be a finite number, got 'good'"),
        ({"prompt": "q", "responses": ["a", "b"], "scores": [10**400, 1]}, r"must be a finite number"),
        ({"prompt": "q", "responses": {"a": 1}, "best": 0}, r"must be a list of at least two answers"),
        ({"prompt": "q", "responses": ["a", 5], "best": 0}, r"must be a text that is not empty, got 5"),
        ({"prompt": "q", "summaries": None, "choice": 0}, r"the field 'summaries' has no value"),
        ({"prompt": "q", "summaries": [{"text": "a"}, {}], "choice": 0}, r"must be a text that is not empty, got None"),
        ({"prompt": "q", "summaries": "ab", "choice": 0}, r"'summaries' must be a list of at least two texts"),
        (
            {"instruction": 5, "output_1": "a", "output_2": "b", "preference": 1},
            r"'instruction' and 'input' must be texts, got \[5, None\]",
        ),
        ({"instruction": "x", "output_1": "a", "output_2": "b", "preference": True}, r"must be 1 \(output_1 is better\) or 2, got True"),
        ({"instruction": "x", "output_1": None, "output_2": "b", "preference": 1}, r"the field 'output_1' has no value"),
        ({"prompt": "q", "chosen": "a\ud800", "rejected": "b"}, r"field 'chosen' holds invalid Unicode .* at position 1"),
        ({"prompt": "q\0", "chosen": "a", "rejected": "b"}, r"field 'prompt' holds a NUL character at position 1"),
        ({"prompt": [user("\udfff")], "chosen": "a", "rejected": "b"}, r"field 'prompt' holds invalid Unicode"),
        ({"prompt": float("nan"), "chosen": "a", "rejected": "b"}, r"must be a text or a list of chat messages, got nan"),
        ({"prompt": "q", "completion": "a", "label": "good"}, r"'label' must be true \(desirable\) or false, got 'good'"),
        ({"prompt": "q", "completion": "a", "label": 0.5}, r"'label' must be true \(desirable\) or false, got 0\.5"),
        ({"prompt": "q", "completion": " ", "label": True}, r"must be a text that is not empty"),
    ],
)
def test_values_of_other_types_are_refused_with_their_place(values: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=f"data.jsonl:7: .*{message}"):
        read(values)


def test_numbers_whose_meaning_is_plain() -> None:
    """Floats of a Parquet column with gaps, and a CSV file's texts."""
    answers = {"prompt": "q", "responses": ["a", "b"]}
    assert read(answers | {"ranking": [1.0, 0.0]}).responses == ("b", "a")
    assert read(answers | {"ranking": ["1", "0"]}).responses == ("b", "a")
    assert read(answers | {"best": 1.0}).responses == ("b", "a")
    assert read(answers | {"scores": ["1", "2.5e0"]}).responses == ("b", "a")
    assert read({"instruction": "x", "output_1": "a", "output_2": "b", "preference": 2.0}).responses == ("b", "a")


@pytest.mark.parametrize(("label", "desirable"), [(True, True), (False, False), (1, True), (0, False), ("True", True), ("false", False)])
def test_unpaired(label: Any, desirable: bool) -> None:
    found = read({"prompt": "Why?", "completion": [assistant("so")], "label": label})
    assert (found.prompt, found.responses, found.desirable) == ("Why?", ("so",), desirable)
    assert found.values.tolist() == [[0.5]]


def test_soft_pairs_need_scores() -> None:
    with pytest.raises(DataError, match="needs score_chosen and score_rejected"):
        read({"prompt": "x", "chosen": "y", "rejected": "n"}, verdicts="soft")
