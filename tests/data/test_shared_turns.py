"""A prompt beside answers that are chats: the turns that both share are given to the policy, or the record is refused."""

from __future__ import annotations

from typing import Any

import pytest

from raypref.data.chats import Chat
from raypref.data.config import DataConfig
from raypref.data.layouts import GivenPreferences, read_preferences
from raypref.data.record_prompts import bare_text
from raypref.data.records import Record
from raypref.errors import DataError

WEATHER = {"type": "function", "function": {"name": "weather"}}


def S(text: str) -> dict[str, Any]:
    return {"role": "system", "content": text}


def U(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def A(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def read(values: dict[str, Any], **config: Any) -> GivenPreferences:
    return read_preferences(Record(values, "data.jsonl:7"), DataConfig(type="preferences", **config))


def pair(prompt: Any, *shared: dict[str, Any], **further: Any) -> dict[str, Any]:
    given = {} if prompt is None else {"prompt": prompt}
    return given | {"chosen": [*shared, A("good")], "rejected": [*shared, A("bad")]} | further


@pytest.mark.parametrize(
    ("prompt", "shared", "expected"),
    [
        ("q", [S("in French"), U("q")], [S("in French"), U("q")]),
        ("q2", [U("q1"), A("a1"), U("q2")], [U("q1"), A("a1"), U("q2")]),
        ("q1", [U("q1"), A("a1"), U("q2")], [U("q1"), A("a1"), U("q2")]),
        (" q1\n", [U("q1"), A("a1"), U("q2")], [U("q1"), A("a1"), U("q2")]),
        ("q1", [A("a1"), U("q2")], [U("q1"), A("a1"), U("q2")]),
        ([U("q1")], [U("q1"), A("a1"), U("q2")], [U("q1"), A("a1"), U("q2")]),
        ([U("q1")], [A("a1"), U("q2")], [U("q1"), A("a1"), U("q2")]),
        ([S("in French"), U("q")], [U("q")], [S("in French"), U("q")]),
        ([S("in French"), U("q")], [], [S("in French"), U("q")]),
        (None, [S("in French"), U("q")], [S("in French"), U("q")]),
    ],
)
def test_the_policy_is_given_all_turns(prompt: Any, shared: list[Any], expected: list[Any]) -> None:
    given = read(pair(prompt, *shared))
    assert list(given.prompt) == expected
    assert given.responses == ("good", "bad")
    many = {key: value for key, value in pair(prompt).items() if key == "prompt"}
    answers = [[*shared, A("good")], [*shared, A("bad")]]
    assert read(many | {"responses": answers, "scores": [2, 1]}).prompt == given.prompt
    assert read(many | {"completion": answers[0], "label": True}).prompt == given.prompt


def test_a_text_that_the_only_shared_turn_repeats_stays_a_text() -> None:
    """So that it can be used without a chat template, too."""
    assert read(pair("q", U("q"))).prompt == "q"
    assert read(pair("q")).prompt == "q"


@pytest.mark.parametrize(
    ("prompt", "shared"),
    [
        ("other", [U("q")]),
        ("other", [S("in French"), U("q")]),
        ("in French", [S("in French"), U("q")]),
        ("a1", [U("q1"), A("a1"), U("q2")]),
        ([U("other")], [U("q")]),
        ([S("in German"), U("q")], [S("in French"), U("q")]),
        ([S("in German"), U("q")], [U("q"), A("a"), U("q2")]),
    ],
)
def test_contradictions_are_refused(prompt: Any, shared: list[Any]) -> None:
    with pytest.raises(DataError, match=r"data\.jsonl:7: the prompt \(field 'prompt'\) is not among .* data\.layout=conversations"):
        read(pair(prompt, *shared))
    assert list(read(pair(prompt, *shared), layout="conversations").prompt) == shared


def test_tools_reach_the_prompt_of_a_pair() -> None:
    for values in (pair("q", tools=[WEATHER]), pair("q", S("s"), U("q"), tools=[WEATHER]), pair(None, U("q"), tools=[WEATHER])):
        prompt = read(values).prompt
        assert isinstance(prompt, Chat)
        assert prompt.tools == (WEATHER,)
        assert "weather" in bare_text(prompt)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (pair(None), "the chats share no turn, and there is no field 'prompt' with the prompt; fields here: chosen, rejected"),
        ({"question": "q", **pair(None)}, "the chats share no turn, and there is no field 'prompt' .*question"),
        ({"chosen": [U("q"), A("y")], "rejected": [U("q "), A("n")]}, r"one assistant's turn .* after 0 shared turns"),
        ({"chosen": [U("q"), A("y")], "rejected": [A("n")]}, r"one assistant's turn"),
        ({"chosen": [U("q")], "rejected": [U("q")], "prompt": "q"}, r"one assistant's turn"),
        (pair("q") | {"chosen": [{**A(""), "tool_calls": [WEATHER]}]}, r"has tool_calls beside its text"),
        (pair("q") | {"chosen": [A(" ")]}, r"must be a text that is not empty, got ' '"),
        (pair("q") | {"chosen": []}, "must both be texts, or both be chats"),
        (pair("q") | {"chosen": [[A("x")]]}, "message 0 must have a text 'role' and 'content'"),
        (pair(None, A("hello")), "the chat ends with the assistant's turn"),
    ],
)
def test_what_is_no_pair_of_chats(values: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=rf"data\.jsonl:7: .*{message}"):
        read(values)


def test_answers_of_a_list_share_their_turns() -> None:
    """Earlier turns of an answer's chat are no longer dropped."""
    with pytest.raises(DataError, match=r"data\.jsonl:7: after the turns that both chats share"):
        read({"prompt": "q", "responses": [[U("q"), A("a")], [U("other"), A("b")]], "best": 0})


TRANSCRIPTS = {"chosen": "\n\nHuman: q\n\nAssistant: good", "rejected": "\n\nHuman: q\n\nAssistant: bad"}


def test_transcripts_beside_a_prompt_are_asked_about() -> None:
    with pytest.raises(DataError, match=r"fits the layouts pair and transcripts.*set data\.layout"):
        read({"prompt": "q", **TRANSCRIPTS})
    assert list(read({"prompt": "q", **TRANSCRIPTS}, layout="transcripts").prompt) == [U("q")]
    assert read({"prompt": "q", **TRANSCRIPTS}, layout="pair").responses == tuple(TRANSCRIPTS.values())


def test_a_transcript_that_goes_on_is_refused() -> None:
    going_on = {side: f"{text}\n\nHuman: and?" for side, text in TRANSCRIPTS.items()}
    with pytest.raises(DataError, match="ends with another turn than the Assistant's"):
        read(going_on)


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ({"prompt": "q", "responses": ["a", "b"], "scores": [1, 2], "best": 0}, "best and scores"),
        ({"prompt": "q", "responses": ["a", "b"], "scores": [1, 2], "chosen": "a", "rejected": "b"}, "pair and scores"),
        ({"prompt": "q", "completion": "a", "label": True, "chosen": "a", "rejected": "b"}, "pair and unpaired"),
    ],
)
def test_a_record_that_fits_two_layouts_is_asked_about(values: dict[str, Any], names: str) -> None:
    with pytest.raises(DataError, match=rf"data\.jsonl:7: this record fits the layouts {names}; set data\.layout"):
        read(values)
    for layout in names.split(" and "):
        assert read(values, layout=layout).responses


def test_fields_without_a_value_do_not_count() -> None:
    """As in the rows of a Parquet file that holds several layouts."""
    empty = {"responses": None, "scores": None, "completion": None, "label": None}
    assert read({"prompt": "q", "chosen": "a", "rejected": "b", **empty}).responses == ("a", "b")
