"""A judge that ranks all responses in one input, in both orders."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from raypref.cli.app import app
from raypref.errors import ConfigError, DataError, OracleError
from raypref.oracles.base import ABSTAIN, Question
from raypref.oracles.judge import ChatJudge
from raypref.oracles.support.rankings import ranking_template, read_ranking
from tests.oracles.http_server import ChatServer, Request, Response, completion, refusal, serving

TEXTS = ("four words are here", "one", "two words", "three words now")
EVERY_PAIR = tuple((i, j) for i in range(4) for j in range(i + 1, 4))


def _shown(request: Request) -> list[str]:
    return re.findall(r"<answer \d+ \w+>\n(.*?)\n</answer", request.text)


def by_length(request: Request) -> Response:
    """Ranks the longest answer first."""
    shown = _shown(request)
    order = sorted(range(len(shown)), key=lambda k: -len(shown[k]))
    return completion("They differ.\nRanking: " + " > ".join(str(k + 1) for k in order))


def judge(server: ChatServer, **settings: object) -> ChatJudge:
    oracle = ChatJudge.parse({"model": "m", "base_url": server.url, "key_env": None, "mode": "ranking", "retries": 0, **settings})
    oracle.load(None)  # type: ignore[arg-type]  # it needs none
    return oracle


def test_both_orders_agree() -> None:
    """Two requests for six pairs: lengths 4, 1, 2, 3 words."""
    with serving(by_length) as server:
        (answer,) = judge(server).compare([Question("p", "Why?", TEXTS, EVERY_PAIR)])
    assert [_shown(request)[0] for request in server.requests] == [TEXTS[0], TEXTS[3]]
    wins = [[0.5, 1, 1, 1], [0, 0.5, 0, 0], [0, 1, 0.5, 0], [0, 1, 1, 0.5]]
    np.testing.assert_array_equal(answer.values, wins)


def test_pairs_on_which_the_orders_disagree_are_abstained_on() -> None:
    """A judge that puts what is shown first first, and ranks the rest by length: with the texts in order 0 1 2 3 the ranking is 0 3 2 1,
    reversed it is 3 0 2 1. They differ on the pair of 0 and 3 alone."""

    def first_first(request: Request) -> Response:
        shown = _shown(request)
        order = [0, *sorted(range(1, len(shown)), key=lambda k: -len(shown[k]))]
        return completion("Ranking: " + " > ".join(str(k + 1) for k in order))

    with serving(first_first) as server:
        (answer,) = judge(server).compare([Question("p", "Why?", TEXTS, EVERY_PAIR)])
    assert (answer.values[[0, 3], [3, 0]] == ABSTAIN).all()
    assert answer.values[0, 1] == answer.values[3, 2] == answer.values[2, 1] == 1
    assert int((answer.values == ABSTAIN).sum()) == 2


def test_a_reply_that_cannot_be_read_is_counted_and_decides_nothing() -> None:
    with serving(lambda request: completion("Ranking: 1 > 1 > 2 > 3")) as server:
        (answer,) = judge(server).compare([Question("p", "Why?", TEXTS, EVERY_PAIR)])
    assert int((answer.values == ABSTAIN).sum()) == 12
    assert answer.observed["oracle/unparsed"] == [1.0, 1.0]


@pytest.mark.parametrize(
    ("reply", "ranking"),
    [
        ("1. **1st Place:** Story 2\n2. **2nd Place:** Story 1", (1, 0)),
        ("**1st Place**: Story 2\n**2nd Place**: Story 1", (1, 0)),
        ("**1st Place:** **Story 2**\n**2nd Place:** **Story [1]**", (1, 0)),
        ("1st place is Story 2.\n2nd place is story 1.", (1, 0)),
        ("Ranking: 1 > 2\nNo: **Ranking:** 2 > 1", (1, 0)),
        ("1st Place: Story 2\n2nd Place: Story 2", None),
        ("1st Place: Story 2", None),
        ("**1st Place:** Story [1, 2, 3, or 4]", None),
        ("Ranking: 1 > 3", None),
        ("I prefer 2 > 1.", None),
    ],
)
def test_replies(reply: str, ranking: tuple[int, ...] | None) -> None:
    assert read_ranking(reply, 2) == ranking


def test_templates() -> None:
    with serving(by_length) as server:
        judge(server, template="First:\n{1}\nSecond:\n{2}\nRanking: ?").compare([Question("p", "", ("a", "bb"), ((0, 1),))])
        text = server.requests[0].text
        assert re.fullmatch(r"First:\n<answer 1 \w+>\na\n</answer 1 \w+>\nSecond:\n<answer 2 \w+>\nbb\n</answer 2 \w+>\nRanking: \?", text)
        with pytest.raises(OracleError, match="has places for 2 responses, and a question has 4"):
            judge(server, template="{1} {2}").compare([Question("p", "", TEXTS, EVERY_PAIR)])
    for wrong in ("{question}", "{1} {3}", "{1} {2} {responses}"):
        with pytest.raises(ConfigError, match=r"oracle\.template: a ranking's template has either"):
            ranking_template(wrong)


def test_the_mode_is_part_of_what_the_cache_knows(tmp_path: Path) -> None:
    sections = {"model": "m", "key_env": None}
    settings: list[dict[str, str]] = [{}, {"mode": "ranking"}, {"mode": "ranking", "template": "{responses}"}]
    identities = {ChatJudge.parse({**sections, **more}).identity() for more in settings}
    assert len(identities) == 3
    assert "mode" not in json.loads(ChatJudge.parse(sections).identity())


@pytest.fixture
def questions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = Path("q.jsonl")
    path.write_text("".join(json.dumps({"id": f"q{k}", "question": f"What is {k}?"}) + "\n" for k in range(5)))
    return path


def _ask(server: ChatServer, *overrides: str) -> str:
    config = {"policy": {"path": "p"}, "loss": {"type": "dpo"}, "selection": {"type": "best_worst"}}
    oracle = {"type": "judge", "model": "m", "base_url": server.url, "key_env": None, "retries": 0, "concurrency": 2}
    Path("run.yaml").write_text(json.dumps(config | {"oracle": oracle}))
    arguments = ["ask", "run.yaml", *overrides, "--questions", "q.jsonl", "--output", "a.jsonl"]
    return CliRunner().invoke(app, arguments, catch_exceptions=False).output


def _answers() -> dict[str, str]:
    return {record["id"]: record["answer"] for record in map(json.loads, Path("a.jsonl").read_text().splitlines())}


def test_questions_are_asked_as_they_are_and_once(questions: Path) -> None:
    """Of five questions one fails the first time; a torn line at the end is asked again."""
    failing = {"What is 3?"}

    def answer(request: Request) -> Response:
        return refusal(400) if request.text in failing else completion(request.text.upper())

    with serving(answer) as server:
        with pytest.raises(OracleError, match="1 of 5 questions got no answer"):
            _ask(server)
        assert _answers() == {f"q{k}": f"WHAT IS {k}?" for k in (0, 1, 2, 4)}
        failing.clear()
        whole = Path("a.jsonl").read_text()
        Path("a.jsonl").write_text(whole + '{"id": "q3", "ans')
        server.requests.clear()
        assert "has 4 answers already" in _ask(server)
        assert [request.text for request in server.requests] == ["What is 3?"]
        assert len(_answers()) == 5
        _ask(server)
        assert len(server.requests) == 1


def test_a_spent_budget_keeps_what_was_answered(questions: Path) -> None:
    """Each reply costs 100 prompt tokens at 1 dollar a token: after the first part of two requests the budget of 100 dollars is spent."""
    with serving(lambda request: completion("yes")) as server:
        prices = ("oracle.prompt_dollars=1e6", "oracle.completion_dollars=0", "oracle.budget_dollars=150")
        with pytest.raises(OracleError, match="150 are spent"):
            _ask(server, *prices)
        assert 0 < len(_answers()) < 5


def test_what_cannot_be_asked(questions: Path) -> None:
    with serving(lambda request: completion("yes")) as server:
        with pytest.raises(ConfigError, match=r"oracle\.type: pairrm, which has no chat endpoint"):
            _ask(server, "oracle.type=pairrm", "oracle.path=x")
        Path("a.jsonl").write_text('{"id": "other", "answer": "x"}\n')
        with pytest.raises(DataError, match="not an answer to one of the 5 questions"):
            _ask(server)
        questions.write_text('{"id": "q0", "question": "a"}\n{"id": "q0", "question": "b"}\n')
        with pytest.raises(DataError, match=r"q\.jsonl:2: the id 'q0' occurs twice"):
            _ask(server)
