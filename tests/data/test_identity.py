"""What makes two prompts the same, and that a prompt held out for evaluation is never trained on, wherever it comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest

from raypref.config import DataConfig
from raypref.data.demonstrations import load_demonstrations
from raypref.data.examples import ExampleBuilder
from raypref.data.given_preferences import PreferenceData, load_preferences
from raypref.data.identity import content_id
from raypref.data.policy_facts import PolicyFacts
from raypref.data.prompts import PromptData, load_apart, load_prompts
from raypref.errors import DataError
from raypref.losses.base import Loss
from raypref.losses.dpo import DPO

USER = {"role": "user", "content": "why"}
SYSTEM = {"role": "system", "content": "so"}


def facts(tokenizer: Any) -> PolicyFacts:
    return PolicyFacts(tokenizer, 20, (2,))


def prompts(tokenizer: Any, given: list[Any], held_out: list[Any] | None = None, **config: Any) -> PromptData:
    section = DataConfig(**{"shuffle": False} | config)
    return load_prompts(section, facts(tokenizer), 4, 0, prompts=given, held_out=held_out)


def preferences(tokenizer: Any, given: list[Any], held_out: Any = (), loss: Loss | None = None, **config: Any) -> PreferenceData:
    section = DataConfig(type="preferences", **{"shuffle": False} | config)
    loss = loss or DPO()
    makers: dict[str, Any] = {"loss": loss, "selection": None, "builder": ExampleBuilder(loss, None, 20)}
    return load_preferences(section, facts(tokenizer), 0, **makers, records=given, held_out=held_out)


def test_a_content_id_follows_from_the_turns_alone() -> None:
    """A text is one turn of the user. Another system turn, another history and another role make another prompt."""
    assert content_id("why") == content_id("why", (("user", "why"),))
    others = [("system", "so"), ("system", "how")], [("assistant", "why")], [("user", "why"), ("assistant", "so")]
    chats = [(("user", "why"),), *((*turns, ("user", "why")) for turns in others)]
    assert len({content_id("why", chat) for chat in chats} | {content_id("why ")}) == 5
    assert content_id("\ud800 is half a character") == content_id("\ud800 is half a character")


@pytest.mark.parametrize("held_out", [["why"], [[USER]], ["why", "why"]])
def test_held_out_objects_are_not_trained_on(tokenizer: Any, caplog: pytest.LogCaptureFixture, held_out: list[Any]) -> None:
    """However the prompt is written: as a text or as a chat of one turn. After a system turn it is another prompt."""
    data = prompts(tokenizer, ["why", "how", [USER], [SYSTEM, USER]], held_out)
    assert [(prompt.index, prompt.id, prompt.text) for prompt in data.train] == [(0, "1", "how"), (1, "3", "system: so\n\nuser: why")]
    assert "2 of 4 training records are left out: their prompts are held out for evaluation" in caplog.text


def test_a_held_out_file_is_not_trained_on(tokenizer: Any, tmp_path: Path) -> None:
    """Of the file, the prompts that evaluation takes: with ``held_out_prompts: 1`` the first."""
    (tmp_path / "p.jsonl").write_text('{"prompt": "why"}\n{"prompt": "how"}\n{"prompt": "so"}\n')
    path = str(tmp_path / "p.jsonl")
    data = load_prompts(DataConfig(path=path, held_out=path, held_out_prompts=1, shuffle=False), facts(tokenizer), 4, 0)
    assert ([prompt.text for prompt in data.train], [prompt.text for prompt in data.held_out]) == (["how", "so"], ["why"])


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_duplicate_of_a_prompt_that_was_set_apart_is_not_trained_on(tokenizer: Any, shuffle: bool) -> None:
    data = prompts(tokenizer, ["why", "how", "why", "so", "why"], held_out_prompts=1, shuffle=shuffle)
    assert sorted(prompt.text for prompt in data.train) == ["how", "so"]
    assert [prompt.index for prompt in data.train] == [0, 1]
    assert [prompt.text for prompt in data.held_out] == ["why"]


def test_data_without_duplicates_is_as_it_was(tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Duplicates within the training data are nobody's fault."""
    data = prompts(tokenizer, ["why", "how", "why"], ["so"])
    assert [prompt.text for prompt in data.train] == ["why", "how", "why"]
    assert not caplog.records


def test_nothing_left_is_refused(tokenizer: Any) -> None:
    with pytest.raises(DataError, match=r"data\.held_out: every one of the 2 training prompts is held out for evaluation, too"):
        prompts(tokenizer, ["why", "why", "why"], held_out_prompts=1)


PAIRS: list[dict[str, Any]] = [
    {"prompt": "why", "chosen": " so", "rejected": " not"},
    {"prompt": "how", "chosen": " because", "rejected": " not"},
    {"prompt": "why", "chosen": " because", "rejected": " so"},
]


def test_given_preferences_of_held_out_prompts_are_not_trained_on(tokenizer: Any) -> None:
    """Set apart from the same file, or from a file of their own."""
    data = preferences(tokenizer, PAIRS, held_out_prompts=1)
    assert ([prompt.text for prompt in data.prompts], [prompt.text for prompt in data.held_out]) == (["how"], ["why"])
    assert [example.prompt_id for example in data.examples] == ["1"]
    held_out = load_apart(DataConfig(), facts(tokenizer), 16, ["how"]).held_out
    assert [example.prompt_id for example in preferences(tokenizer, PAIRS, held_out).examples] == ["0", "2"]


def test_demonstrations_of_held_out_prompts_are_not_trained_on(tokenizer: Any) -> None:
    records = [{"prompt": prompt, "response": "so"} for prompt in ("why", [USER], [SYSTEM, USER], "how")]
    held_out = load_apart(DataConfig(), facts(tokenizer), 16, ["why"]).held_out
    section = DataConfig(type="demonstrations", shuffle=False)
    examples = load_demonstrations(section, facts(tokenizer), 0, records=records, held_out=held_out)
    assert [(example.prompt_index, example.prompt_id) for example in examples] == [(0, "2"), (1, "3")]
    assert examples[1].content_id == content_id("how")


class Doubled(DPO):
    mismatched: ClassVar[bool] = True


def test_a_mismatched_response_answers_another_prompt(tokenizer: Any) -> None:
    """why, how, why, why: the partners are how (the last other one), why, how, how; their chosen answers begin with 8, 8, 8 and 7, 8, 7."""
    pairs = [*PAIRS, {"prompt": [USER], "chosen": " not", "rejected": " so"}]
    examples = preferences(tokenizer, pairs, loss=Doubled()).examples
    assert [[int(ids[0]) for ids in example.response_ids[2:]] for example in examples] == [[8, 9], [7, 9], [8, 9], [8, 9]]
    with pytest.raises(DataError, match="need the responses of another prompt"):
        preferences(tokenizer, [PAIRS[0], PAIRS[2]], loss=Doubled())
