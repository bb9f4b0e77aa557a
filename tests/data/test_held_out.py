"""Held-out records of given data: which they are, their examples, and that their prompts are not trained on."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest

from raypref.data.config import DataConfig
from raypref.data.demonstrations import read_demonstrations
from raypref.data.examples import ExampleBuilder
from raypref.data.given_preferences import PreferenceData, load_preferences
from raypref.data.held_out import hold_answers, read_held_out, set_apart
from raypref.data.policy_facts import PolicyFacts
from raypref.data.records import BadRecords, Record
from raypref.errors import DataError
from raypref.losses.base import Loss
from raypref.losses.dpo import DPO
from raypref.types import Example

PAIRS: list[dict[str, Any]] = [
    {"prompt": "why", "chosen": " so", "rejected": " not"},
    {"prompt": "how", "chosen": " because", "rejected": " not because"},
    {"prompt": "so", "chosen": " how", "rejected": " why"},
    {"prompt": "why", "chosen": " because", "rejected": " so"},
]
PLAIN: dict[str, Any] = {"chat_template": False, "shuffle": False}


class Doubled(DPO):
    mismatched: ClassVar[bool] = True


def records(*values: dict[str, Any]) -> list[Record]:
    return [Record(value, f"held:{k + 1}") for k, value in enumerate(values)]


def preferences(
    tokenizer: Any,
    held_out: list[Record] | None = None,
    *,
    given: list[dict[str, Any]] = PAIRS,
    context: int = 20,
    loss: Loss | None = None,
    **config: Any,
) -> PreferenceData:
    section, loss = DataConfig(type="preferences", **PLAIN | config), loss or DPO()
    makers: dict[str, Any] = {"loss": loss, "selection": None, "builder": ExampleBuilder(loss, None, context)}
    facts = PolicyFacts(tokenizer, context, (2,))
    return load_preferences(section, facts, 0, **makers, records=given, held_out_records=held_out)


def answers(example: Example) -> list[list[int]]:
    return [ids.tolist() for ids in example.response_ids]


@pytest.mark.parametrize("shuffle", [False, True])
def test_the_last_records_are_set_apart_with_their_answers(tokenizer: Any, shuffle: bool) -> None:
    """The last two, in the data's order however the others are shuffled: ``how <eos>`` 6 2 before ``why <eos>`` 5 2, and 8 2 before 7 2.
    The first record has a held-out prompt, too, and is left out."""
    data = preferences(tokenizer, held_out_prompts=2, shuffle=shuffle)
    assert [example.prompt_id for example in data.examples] == ["1"]
    assert [(example.prompt_index, example.prompt_id) for example in data.held_out_examples] == [(0, "2"), (1, "3")]
    assert [answers(example) for example in data.held_out_examples] == [[[6, 2], [5, 2]], [[8, 2], [7, 2]]]
    assert [example.targets.tolist() for example in data.held_out_examples] == [[1, 0], [1, 0]]
    assert [(prompt.index, prompt.text) for prompt in data.held_out] == [(0, "so"), (1, "why")]


def test_held_out_records_of_their_own(tokenizer: Any) -> None:
    """Nothing is set apart then; ``held_out_prompts`` is how many of them are taken. Ids are those of their own file."""
    own = records({"prompt": "how", "chosen": " so", "rejected": " why"}, {"prompt": "not", "chosen": " so", "rejected": " why"})
    for count, held, trained in ((0, ["how", "not"], ["0", "2", "3"]), (1, ["how"], ["0", "2", "3"])):
        data = preferences(tokenizer, own, held_out_prompts=count)
        assert [prompt.text for prompt in data.held_out] == held
        assert [example.prompt_id for example in data.examples] == trained
        assert [example.prompt_id for example in data.held_out_examples] == ["0", "1"][: len(held)]
        assert [prompt.text for prompt in data.prompts] == ["why", "so", "why"]
    assert preferences(tokenizer, []).held_out_examples == []


def test_held_out_records_that_cannot_be_used_are_counted_apart(tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    """``<bos> not`` and ``why so <eos>`` have five tokens, the context four, which the second training record exceeds as well."""
    long = {"prompt": "not", "chosen": " why so", "rejected": " so"}
    good = {"prompt": "not so", "chosen": "", "rejected": " so"}
    own = records(long, {"prompt": "because", "chosen": " so", "rejected": " why"}, good)
    data = preferences(tokenizer, own, context=4, on_bad_record="skip")
    assert [example.prompt_id for example in data.held_out_examples] == ["1"]
    assert (data.dropped, data.overlong, data.skipped) == (2, 2, 1)
    assert "data.held_out: 1 of 2 records give no example; too long for 4 tokens: 1 (the first: held:1" in caplog.text
    assert "data.held_out: 1 record skipped" in caplog.text
    with pytest.raises(DataError, match=r"data\.held_out: none of 1 records gives an example"):
        preferences(tokenizer, records(long), context=4)
    with pytest.raises(DataError, match=r"held:2: no layout of preference data fits; fields here: prompt"):
        preferences(tokenizer, records(long, {"prompt": "so"}))


def test_mismatched_responses_of_held_out_records_are_held_out_too(tokenizer: Any) -> None:
    """so (6 / 5) and why (8 / 7) are partners. A single one, why, has the last training record, so, as its partner."""
    given = [{"prompt": "because", "chosen": " so", "rejected": " why"}, *PAIRS]
    two = preferences(tokenizer, given=given, loss=Doubled(), held_out_prompts=2).held_out_examples
    assert [[ids[0] for ids in answers(example)] for example in two] == [[6, 5, 8, 7], [8, 7, 6, 5]]
    (one,) = preferences(tokenizer, loss=Doubled(), held_out_prompts=1).held_out_examples
    assert [ids[0] for ids in answers(one)] == [8, 7, 6, 5]


def test_demonstrations(tokenizer: Any) -> None:
    """The last record, why, is set apart: ``not <eos>`` 9 2. The first one has the same prompt."""
    shown = [{"prompt": prompt, "response": answer} for prompt, answer in (("why", " so"), ("how", " because"), ("why", " not"))]
    facts, section = PolicyFacts(tokenizer, 20, (2,)), DataConfig(type="demonstrations", **PLAIN, held_out_prompts=1)
    data = read_demonstrations(section, facts, 0, records=shown)
    assert [example.prompt_id for example in data.examples] == ["1"]
    assert [(example.prompt_id, answers(example)) for example in data.held_out_examples] == [("2", [[9, 2]])]
    assert [(prompt.text, prompt.token_ids.tolist()) for prompt in data.held_out] == [("why", [1, 5])]
    own = records({"prompt": "how", "response": " so"})
    data = read_demonstrations(section, facts, 0, records=shown, held_out_records=own)
    assert [example.prompt_id for example in data.examples] == ["0", "2"]
    assert [answers(example) for example in data.held_out_examples] == [[[7, 2]]]
    with pytest.raises(DataError, match="3 are to be set apart from 3 records"):
        read_demonstrations(section.model_copy(update={"held_out_prompts": 3}), facts, 0, records=shown)


@pytest.mark.parametrize(
    ("kind", "values", "answered"),
    [
        ("preferences", {"prompt": "why", "chosen": "so", "rejected": "not"}, True),
        ("preferences", {"chosen": "\n\nHuman: why\n\nAssistant: so", "rejected": "\n\nHuman: why\n\nAssistant: not"}, True),
        ("preferences", {"prompt": "why", "completion": "so", "label": True}, True),
        ("preferences", {"prompt": "why", "responses": ["so", "not"], "ranking": [1, 0]}, True),
        ("preferences", {"prompt": "why"}, False),
        ("preferences", {"prompt": "why", "completion": "a reference answer"}, False),
        ("preferences", {"prompt": "why", "chosen": "so", "rejected": None}, False),
        ("demonstrations", {"prompt": "why", "response": "so"}, True),
        ("demonstrations", {"prompt": "why"}, False),
    ],
)
def test_whether_records_hold_answers(kind: Any, values: dict[str, Any], answered: bool) -> None:
    """As training records hold them; one such record among prompts is enough, and the prompts are refused then."""
    assert hold_answers(records({"prompt": "how"}, values), DataConfig(type=kind)) is answered


def test_what_is_read() -> None:
    section, bad = DataConfig(type="preferences"), BadRecords(skip=False)
    assert read_held_out(section, None, bad) is None
    assert read_held_out(section, [], bad) == []
    (record,) = read_held_out(section, [PAIRS[0]], bad) or []
    assert record.values == PAIRS[0]
    assert set_apart(list("abc"), 1, "records") == (["a", "b"], ["c"])
    assert set_apart(list("abc"), 0, "records") == (["a", "b", "c"], [])
    assert np.array_equal(set_apart([], 0, "records"), ([], []))
