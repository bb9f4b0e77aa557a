"""What a run with given data is evaluated on: held-out examples, held-out prompts, or both."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from raypref.config import RunConfig
from raypref.data.fingerprint import Fingerprint
from raypref.data.policy_facts import PolicyFacts
from raypref.errors import ConfigError, DataError
from raypref.loop.loading import load_run_data
from raypref.types import Example, RunData

PAIRS = [{"prompt": prompt, "chosen": " so", "rejected": " not"} for prompt in ("why", "how", "why not")]
ORACLE = {"type": "callable", "function": "builtins:len"}


def load(
    held_out: Any = None,
    *,
    every: int = 1,
    oracle: Any = None,
    kind: str = "preferences",
    against: dict[str, str] | None = None,
    texts: Path | None = None,
    ends: tuple[int, ...] = (1,),
    **data: Any,
) -> RunData:
    """The data of a run on ``PAIRS`` with a context of 6 tokens and responses of at most 5: prompts of two tokens are not sampled from."""
    words = Tokenizer(
        models.WordLevel({word: k for k, word in enumerate(("<unk>", "<eos>", "why", "how", "so", "not"))}, unk_token="<unk>")
    )
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", eos_token="<eos>")
    sections = {
        "policy": {"path": "unused"},
        "loss": {"type": {"preferences": "dpo", "demonstrations": "sft", "prompts": "sppo"}[kind]},
        "selection": {"type": "best_worst"} if kind == "prompts" else None,
        "oracle": ORACLE if kind == "prompts" else oracle,
        "data": {"type": kind, "chat_template": False, "shuffle": False} | data,
        "rollout": {"max_tokens": 4 if kind == "prompts" else 5},
        "evaluation": {"every": every, "against": against or {}, "texts": texts and str(texts)},
    }
    shown = [{"prompt": pair["prompt"], "response": pair["chosen"]} for pair in PAIRS]
    facts = PolicyFacts(tokenizer, 6, ends)
    return load_run_data(RunConfig.parse(sections), facts, records=PAIRS if kind == "preferences" else shown, held_out=held_out)


@pytest.mark.parametrize("kind", ["prompts", "demonstrations", "preferences"])
def test_texts_are_read_and_their_prompts_not_trained_on(tmp_path: Path, kind: str) -> None:
    """Whatever the run trains on. An answer has its end token; one that exceeds the context of six tokens with its prompt is left out,
    and its prompt is not trained on all the same."""
    texts = tmp_path / "t.jsonl"
    rows = [
        {"prompt": "how", "response": " so why"},
        {"prompt": "why not", "response": " so so so so"},
        {"prompt": "so", "response": " not"},
    ]
    texts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = load(kind=kind, texts=texts)
    assert [(list(one.prompt_ids[0]), list(one.response_ids[0])) for one in data.texts] == [([3], [4, 2, 1]), ([4], [5, 1])]
    assert [item.prompt_id if isinstance(item, Example) else item.id for item in data.items] == ["0"]
    assert (list(data.held_out), list(data.held_out_examples)) == ([], [])
    before = Fingerprint.of(data)
    assert before.changes(data) == []
    (change,) = before.changes(replace(data, texts=data.texts[:1]))
    assert change.startswith("evaluation.texts: 2 records before, 1 now")


def test_a_file_of_texts_is_whole_whatever_part_of_a_data_set_the_run_trains_on(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"prompt": "how", "response": " so"}\n')
    assert len(load(texts=tmp_path / "t.jsonl", split="train[:10]", subset="english").texts) == 1


def test_texts_that_cannot_be_read(tmp_path: Path) -> None:
    texts = tmp_path / "t.jsonl"
    with pytest.raises(DataError, match=r"t\.jsonl"):
        load(texts=texts)
    texts.write_text('{"prompt": "how"}\n')
    with pytest.raises(DataError, match=r"t\.jsonl:1: .*response"):
        load(texts=texts)
    texts.write_text('{"prompt": "how", "response": " so"}\n')
    with pytest.raises(ConfigError, match=r"policy\.path: unused names no end token"):
        load(kind="prompts", texts=texts, ends=())


@pytest.mark.parametrize("kind", ["preferences", "demonstrations"])
def test_without_an_oracle_the_loss_alone_is_measured(kind: str) -> None:
    """Then no prompt is asked, and none is too long to be answered."""
    data = load(held_out_prompts=1, kind=kind)
    assert [example.prompt_id for example in data.held_out_examples] == ["2"]
    assert (data.held_out, data.left_out["overlong"], len(data.examples)) == ([], 0, 2)


@pytest.mark.parametrize("kind", ["preferences", "demonstrations"])
def test_with_an_oracle_the_policy_answers_the_same_records_prompts(kind: str) -> None:
    """``how`` and ``why not``, of which the second leaves no room for an answer."""
    data = load(held_out_prompts=2, oracle=ORACLE, kind=kind)
    assert [example.prompt_id for example in data.held_out_examples] == ["1", "2"]
    assert [prompt.text for prompt in data.held_out] == ["how"]
    assert data.left_out["overlong"] == 1


def test_held_out_records_that_are_passed() -> None:
    """As many as there are; nothing is set apart from the data besides. Prompts alone have no loss."""
    data = load([{"prompt": "so", "chosen": " why", "rejected": " how"}], held_out_prompts=2, oracle=ORACLE)
    assert ([example.prompt_id for example in data.held_out_examples], len(data.examples)) == (["0"], 3)
    data = load(["so", "why"], held_out_prompts=2, oracle=ORACLE)
    assert (list(data.held_out_examples), [prompt.text for prompt in data.held_out], len(data.examples)) == ([], ["so", "why"], 2)
    assert load([], held_out_prompts=2).held_out_examples == []


def test_prompts_without_answers_need_an_oracle() -> None:
    message = r"oracle: required to evaluate on held-out prompts without answers \(record 0 of .* has the fields prompt\)"
    with pytest.raises(ConfigError, match=message):
        load(["so"])
    assert len(load(["why"], every=0).examples) == 2


@pytest.mark.parametrize("kind", ["preferences", "demonstrations"])
def test_each_pass_has_all_examples_in_an_order_of_its_own(kind: str) -> None:
    """The first pass is that of a run with one; the order of the others depends on the seed."""
    one, three = load(kind=kind, shuffle=True), load(kind=kind, shuffle=True, passes=3)
    ids = [example.prompt_id for example in three.examples]
    assert ids[:3] == [example.prompt_id for example in one.examples]
    assert [sorted(ids[k : k + 3]) for k in (0, 3, 6)] == [["0", "1", "2"]] * 3
    assert len({tuple(ids[k : k + 3]) for k in (0, 3, 6)}) > 1
    assert [example.prompt_index for example in three.examples] == list(range(9))
    assert ids == [example.prompt_id for example in load(kind=kind, shuffle=True, passes=3).examples]
    assert [example.prompt_id for example in load(kind=kind, passes=2).examples] == ["0", "1", "2"] * 2


def test_opponents_are_found_by_the_prompt(tmp_path: Path) -> None:
    """A file in another order, with a prompt more; lengths are in the policy's tokens."""
    gold = tmp_path / "gold.jsonl"
    rows = [{"prompt": prompt, "response": f"so {prompt}"} for prompt in ("why not", "so", "how")]
    gold.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = load([{"prompt": "how"}], oracle=ORACLE, against={"gold": str(gold)})
    (answer,) = data.opponents["gold"]
    assert (answer.prompt.id, answer.responses[0].text, len(answer.responses[0].token_ids)) == ("0", "so how", 2)
    with pytest.raises(DataError, match=r"evaluation\.against\.gold: .* has no response to the held-out prompt '0'"):
        load([{"prompt": "not"}], oracle=ORACLE, against={"gold": str(gold)})
