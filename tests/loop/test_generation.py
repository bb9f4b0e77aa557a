"""Answers and revisions of a policy in plain Python, and their win-rate curve."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from actors.supervision.supervisor import Supervisor
from raypref import compose, types
from raypref.config import RunConfig
from raypref.data.chats import Chat
from raypref.data.identity import content_id
from raypref.data.prompts import PromptData
from raypref.data.record_prompts import bare_text
from raypref.errors import OracleError
from raypref.evaluation.exports import write_responses
from raypref.evaluation.matching import match
from raypref.evaluation.response_files import read_responses
from raypref.evaluation.revisions import compare_rounds, revision_curve
from raypref.loop.generation import chain, chains
from raypref.oracles.base import Question
from raypref.output.generated_answers import record_of, write_chains
from tests.fakes import prompt
from tests.groups import rollout


def revise(item: types.Prompt, answer: str) -> types.Prompt | None:
    """The answer in brackets; None for eight characters or more, which leave no room."""
    return None if len(answer) >= 8 else types.Prompt(item.index, item.id, f"[{answer}]", item.token_ids)


async def sample(item: types.Prompt, count: int, purpose: str) -> types.Rollout:
    """a, bb, ccc ...; to an answer in brackets the answer twice."""
    texts = [item.text[1:-1] * 2] if item.text.startswith("[") else [letter * (k + 1) for k, letter in enumerate("abcd"[:count])]
    return rollout(*texts, prompt_id=item.id)


def make(responses: int = 2, revisions: int = 3) -> types.Chain:
    return asyncio.run(chain(prompt(0), sample, responses=responses, revisions=revisions, revise=revise))


def test_each_answer_is_revised_separately() -> None:
    """a -> aa -> aaaa -> 8 a; bb -> bbbb -> 8 b, which leaves no room and takes the place of its third revision."""
    answered = make()
    assert [[response.text for response in answers] for answers in answered.rounds] == [
        ["a", "bb"],
        ["aa", "bbbb"],
        ["aaaa", "b" * 8],
        ["a" * 8, "b" * 8],
    ]
    assert answered.stopped == 1
    assert [response.text for response in answered.rollout(1, 7).responses] == ["aa", "bbbb"]
    assert (answered.rollout(1, 7).prompt, answered.rollout(1, 7).policy_version) == (answered.prompt, 7)


def test_purposes_differ_between_answers_and_revisions() -> None:
    """Seeds depend on the purpose: the same purpose twice would give the same answer."""
    purposes: list[str] = []

    async def watched(item: types.Prompt, count: int, purpose: str) -> types.Rollout:
        purposes.append(purpose)
        return await sample(item, count, purpose)

    asyncio.run(chain(prompt(0), watched, responses=2, revisions=2, revise=revise))
    assert purposes == ["generate", "revision 1 of 0", "revision 1 of 1", "revision 2 of 0", "revision 2 of 1"]


def test_chains_come_in_the_order_of_the_prompts_within_the_window() -> None:
    running = most = 0

    async def slow(item: types.Prompt) -> types.Chain:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.002 * (3 - item.index % 3))
        running -= 1
        return types.Chain(item, ((),), 0)

    answered = asyncio.run(chains([prompt(k) for k in range(9)], 2, slow))
    assert [item.prompt.index for item in answered] == list(range(9))
    assert most == 2


def test_records_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "out" / "answers.jsonl"
    write_chains(path, [make(revisions=1)])
    (record,) = [json.loads(line) for line in path.read_text().splitlines()]
    assert record == {
        "id": "p0",
        "prompt": "prompt 0",
        "responses": ["aa", "bbbb"],
        "revisions": [["a", "aa"], ["bb", "bbbb"]],
        "tokens": [[1, 2], [2, 4]],
        "finish_reasons": ["stop", "stop"],
    }
    assert [item.name for item in path.parent.iterdir()] == ["answers.jsonl"]


def test_a_prompt_without_an_id_is_named_by_its_content(tmp_path: Path) -> None:
    """The number of its row is no id: the same prompt in another row has the same name."""
    answered = replace(make(revisions=0), prompt=replace(prompt(3), named=False))
    record, moved = record_of(answered), record_of(replace(answered, prompt=replace(answered.prompt, id="8", index=8)))
    assert "id" not in record
    assert record["content_id"] == moved["content_id"] == content_id("prompt 3")
    write_chains(tmp_path / "a.jsonl", [answered])
    assert read_responses(tmp_path / "a.jsonl").answers[0].id is None


def test_an_oracle_is_asked_the_same_in_a_run_and_of_a_file(tmp_path: Path) -> None:
    """Plain texts (one looks like a chat), a chat of one turn, one with system turn and history; also after best of n is written again."""
    single, system = (("user", "q"),), (("system", "in one word"), ("user", "q1"), ("assistant", "a1"), ("user", "q2"))
    chats: list[tuple[tuple[str, str], ...]] = [(), (), single, system]
    texts = ["q", "system: in one word\n\nuser: q1", "q", bare_text(Chat.of(system))]
    asked = [
        types.Prompt(k, f"x{k}", text, np.zeros(1, dtype=np.int32), chat) for k, (text, chat) in enumerate(zip(texts, chats, strict=True))
    ]
    answers = make(revisions=0).rounds
    write_chains(tmp_path / "a.jsonl", [types.Chain(item, answers, 0) for item in asked])
    read = read_responses(tmp_path / "a.jsonl")
    write_responses(tmp_path / "b.jsonl", read)
    for path in ("a.jsonl", "b.jsonl"):
        matched = match([read_responses(tmp_path / path, name) for name in "ab"])
        for number, item in enumerate(asked):
            in_run, of_file = (
                Question(found.prompt.id, found.prompt.text, tuple(one.text for one in found.responses), ((0, 1),), found.prompt.chat)
                for found in (types.Rollout(item, answers[0], 0), matched.rollout(0, number))
            )
            assert in_run == of_file


def test_a_curve_by_hand() -> None:
    """Two prompts whose answers have 1, 2, 4 characters, against ones of 1 and of 3: win 1, draw 1/2, loss 0. After 0, 1, 2 revisions:
    (1/2 + 0) / 2, (1 + 0) / 2, (1 + 1) / 2. A comparison costs 0.5."""

    async def compare(challenger: types.Rollout, defender: types.Rollout) -> types.Comparison:
        mine, theirs = (len(side.responses[0].text) for side in (challenger, defender))
        cost = {"oracle/cost_usd_total": types.Total(0.5)}
        return types.Comparison("p", "", float(np.sign(mine - theirs) + 1) / 2, "", "", 0.0, 0.0, cost)

    answered = [make(responses=1, revisions=2)] * 2
    rounds = [[item.rollout(number, 2) for item in answered] for number in range(3)]
    matches = asyncio.run(compare_rounds(rounds, [rollout("x"), rollout("xxx")], compare, in_flight=2))
    curve = revision_curve(matches, [1.0, 2.0, 4.0], "characters", resamples=50, confidence=0.9, seed=0)
    assert [point.win_rate for point in curve] == pytest.approx([0.25, 0.5, 1.0])
    assert [(point.revisions, point.length, point.oracle) for point in curve] == [
        (number, 2.0**number, {"oracle/cost_usd_total": 1.0}) for number in range(3)
    ]
    assert (curve[2].low, curve[2].high, curve[2].prompts) == (1.0, 1.0, 2)


class Fails:
    """An oracle that can give no more answers."""

    async def matrix(self, rollout: types.Rollout) -> types.PreferenceMatrix:
        raise OracleError("no credit left")


def test_answers_outlive_an_oracle_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are written to disk before the oracle is asked."""

    class Engines:
        async def sample(self, request: types.SampleRequest) -> types.Rollout:
            return await sample(request.prompt, request.count, "generate")

    async def nothing() -> None:
        pass

    @contextlib.contextmanager
    def assembled(*args: Any, **kwargs: Any) -> Any:
        roles = SimpleNamespace(rollout=Engines(), oracle=Fails())
        yield SimpleNamespace(roles=roles, supervisor=Supervisor.without_restarts(5.0), start=nothing, close=nothing)

    @contextlib.contextmanager
    def connected(*args: Any) -> Any:
        yield "cpu", False

    monkeypatch.setattr("actors.cluster.connection.connected", connected)
    monkeypatch.setattr("actors.run_actors.RunActors.reserved", assembled)
    monkeypatch.setattr("actors.policy_model.facts_of", lambda policy: SimpleNamespace(context_tokens=4096, tokenizer=None))
    monkeypatch.setattr("raypref.loop.generation.load_apart", lambda *args, key: PromptData([], [prompt(0), prompt(1)], 0))
    config = {
        "policy": {"path": "p"},
        "loss": {"type": "sppo"},
        "oracle": {"type": "callable", "function": "tests.loop.test_generation:sample"},
    }
    with pytest.raises(OracleError, match="no credit left"):
        compose.generate(RunConfig.parse(config), "prompts", tmp_path / "mine.jsonl", responses=3, best=True)
    kept = [json.loads(line)["responses"] for line in (tmp_path / "mine.all.jsonl").read_text().splitlines()]
    assert kept == [["a", "bb", "ccc"]] * 2
    assert not (tmp_path / "mine.jsonl").exists()
