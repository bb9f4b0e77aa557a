"""Given answers as examples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raypref.config import DataConfig
from raypref.data.demonstrations import load_demonstrations
from raypref.data.policy_facts import PolicyFacts
from raypref.errors import ConfigError, DataError
from raypref.types import Example

EOS = 2


def load(tokenizer: Any, records: list[dict[str, Any]] | None = None, *, context: int = 20, seed: int = 0, **config: Any) -> list[Example]:
    return load_demonstrations(DataConfig(type="demonstrations", **config), PolicyFacts(tokenizer, context, (EOS,)), seed, records=records)


def test_an_answer_ends_with_the_end_token(tokenizer: Any) -> None:
    """Plain: ``<bos> why`` 1 5, ``because not <eos>`` 8 9 2; an end token in the text is not doubled."""
    records = [{"prompt": "why ", "response": "because not"}, {"prompt": "how", "response": " so <eos>"}]
    first, second = load(tokenizer, records, chat_template=False, shuffle=False)
    assert (first.prompt_ids[0].tolist(), [ids.tolist() for ids in first.response_ids]) == ([1, 5], [[8, 9, 2]])
    assert (second.prompt_ids[0].tolist(), [ids.tolist() for ids in second.response_ids]) == ([1, 6], [[7, 2]])
    assert (first.prompt_index, first.prompt_id, first.policy_version, first.targets.tolist()) == (0, "0", None, [0.0])


def test_with_the_chat_template(tokenizer: Any) -> None:
    (example,) = load(tokenizer, [{"prompt": "why", "response": " because", "id": "x"}])
    assert (example.prompt_ids[0].tolist(), example.response_ids[0].tolist(), example.prompt_id) == ([1, 3, 5, 4], [8, 2], "x")


def test_an_answer_that_merges_into_the_prompt_is_tokenised_alone(tokenizer: Any) -> None:
    """``how`` + ``so`` would be the one unknown word ``howso``."""
    (example,) = load(tokenizer, [{"prompt": "how", "response": "so"}], chat_template=False)
    assert (example.prompt_ids[0].tolist(), example.response_ids[0].tolist()) == ([1, 6], [7, 2])


def test_from_a_file_in_shuffled_order(tokenizer: Any, tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text("".join(f'{{"prompt": "why", "response": "so", "id": "{k}"}}\n' for k in range(20)))
    examples = load(tokenizer, path=str(path), seed=3)
    assert [example.prompt_id for example in examples] != [str(k) for k in range(20)]
    assert sorted(int(example.prompt_id) for example in examples) == list(range(20))
    assert [example.prompt_index for example in examples] == list(range(20))


def test_too_long_together_is_dropped_or_refused(tokenizer: Any) -> None:
    """``<bos> why`` and ``so not <eos>`` are 2 + 3 tokens."""
    records = [{"prompt": "why", "response": " so not"}, {"prompt": "why", "response": " so"}]
    (example,) = load(tokenizer, records, context=4, chat_template=False)
    assert (example.prompt_index, example.prompt_id) == (0, "1")
    with pytest.raises(DataError, match=r"record 0 .*: demonstration '0' has 2 \+ 3 tokens, the context 4"):
        load(tokenizer, records, context=4, chat_template=False, overlong="refuse")
    with pytest.raises(DataError, match=r"no demonstration left; 2 were dropped"):
        load(tokenizer, records, context=3, chat_template=False)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"prompt": "why"}, r"record 0 .*: no field 'response'; fields here: prompt; see data\.response_field"),
        ({"prompt": "why", "response": " "}, r"an answer \(field 'response'\) must be a text that is not empty, got ' '"),
        ({"prompt": "why", "response": ["so"]}, r"message 0 must have a text 'role' and 'content', got 'so'"),
        ({"prompt": "", "response": "so"}, r"the prompt in field 'prompt' is empty"),
    ],
)
def test_a_bad_record_is_named(tokenizer: Any, record: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(tokenizer, [record])


def test_no_source_is_refused(tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match=r"data\.path: required"):
        load(tokenizer)
