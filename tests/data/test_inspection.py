"""``raypref inspect data``: the tokens with their mask, lengths, duplicates, doubled control tokens, and the command on files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from transformers import PreTrainedTokenizerFast
from typer.testing import CliRunner

from raypref.cli.app import app
from raypref.data import inspection
from raypref.data.config import DataConfig
from raypref.data.policy_facts import PolicyFacts
from raypref.data.tokenization import PolicyTokenizer
from raypref.losses.base import losses
from raypref.types import Example, Prompt, RunData
from tests.tiny_models import make_model

DPO = losses.build("dpo")


@pytest.fixture
def facts(tokenizer: PreTrainedTokenizerFast) -> PolicyFacts:
    return PolicyFacts(tokenizer, 64, (2,))


def ids(*numbers: int) -> inspection.Tokens:
    return np.array(numbers, dtype=np.int32)


def pair(prompt: inspection.Tokens, chosen: inspection.Tokens, rejected: inspection.Tokens, name: str = "p") -> Example:
    return Example(0, name, (prompt, prompt), (chosen, rejected), np.zeros(2), None)


def test_a_pair_token_by_token(facts: PolicyFacts) -> None:
    """<bos> 1, <eos> 2, then words: 5 why, 6 how, 7 so, 8 because. The prompt, which both share, is shown once."""
    data = RunData(examples=[pair(ids(1, 5), ids(8, 2), ids(7, 2))])
    assert list(inspection.records(data, DPO, facts, 3, 10, 80)) == [
        "record 0 of the run, id 'p'",
        "  prompt, 2 tokens, no loss (mask 0):",
        "    1<bos> 5'why'",
        "  chosen, 2 tokens, loss on each (mask 1), from position 2:",
        "    8'because' 2<eos>",
        "  rejected, 2 tokens, loss on each (mask 1), from position 2:",
        "    7'so' 2<eos>",
        "",
    ]


def test_a_prompt_and_the_middle_of_a_long_one(facts: PolicyFacts) -> None:
    data = RunData(prompts=[Prompt(0, "p", "why", ids(1, 5, 6, 7, 8, 5, 6))])
    lines = list(inspection.records(data, losses.build("sppo"), facts, 1, 4, 80))
    assert lines[1:4] == [
        "  prompt, 7 tokens, no loss (mask 0):",
        "    1<bos> 5'why' (3␣not␣shown) 5'why' 6'how'",
        "  response: sampled by the policy, loss on each of its tokens (mask 1)",
    ]


@pytest.mark.parametrize(
    ("loss", "sequences", "roles"),
    [
        ("sft", 1, ["response"]),
        ("dpo", 2, ["chosen", "rejected"]),
        ("s_dpo", 3, ["response 1", "response 2", "response 3"]),
        ("kto", 4, ["chosen", "rejected", "mismatched chosen", "mismatched rejected"]),
        (
            "srpo",
            6,
            [
                "chosen",
                "rejected",
                "chosen behind chosen",
                "rejected behind chosen",
                "chosen behind rejected",
                "rejected behind rejected",
            ],
        ),
    ],
)
def test_roles_follow_the_order_of_the_example_builder(loss: str, sequences: int, roles: list[str]) -> None:
    assert inspection.roles_of(sequences, losses.build(loss)) == roles


def test_lengths_count_a_prompt_once_and_every_response() -> None:
    """Prompts of 2 and 4 tokens, chosen of 1 and 3, rejected of 2: the quantiles are values that occur."""
    data = RunData(examples=[pair(ids(1, 5), ids(2), ids(5, 2)), pair(ids(1, 5, 6, 7), ids(5, 6, 2), ids(6, 2))])
    assert inspection.lengths(data, DPO, 64) == [
        ("tokens", "number", "mean", "least", "50%", "90%", "99%", "most"),
        ("prompt", "2", "3.0", "2", "4", "4", "4", "4"),
        ("chosen", "2", "2.0", "1", "3", "3", "3", "3"),
        ("rejected", "2", "2.0", "2", "2", "2", "2", "2"),
        ("prompt + response", "4", "5.0", "3", "6", "7", "7", "7"),
        ("context", "", "", "", "", "", "", "64"),
    ]


def test_repeated_and_contradicting_pairs() -> None:
    """Of one prompt: a pair, the same again, its opposite, an answer against itself; one pair of another prompt."""
    a, b = ids(5, 2), ids(6, 2)
    data = RunData(examples=[pair(ids(1), a, b), pair(ids(1), a, b), pair(ids(1), b, a), pair(ids(1), a, a), pair(ids(1, 7), a, b)])
    assert list(inspection.duplicates(data, DPO).values()) == [3, 1, 3, 1]


def test_repeated_prompts() -> None:
    prompts = [Prompt(k, str(k), text, ids(1)) for k, text in enumerate(["why", "how", "why", "why"])]
    assert list(inspection.duplicates(RunData(prompts=prompts), DPO).values()) == [2]


def test_doubled_and_missing_control_tokens(facts: PolicyFacts) -> None:
    """Of four sequences two begin with <bos> twice, one ends with <eos> twice, and one does not end."""
    data = RunData(examples=[pair(ids(1, 1, 5), ids(5, 2, 2), ids(6, 2)), pair(ids(1, 5), ids(5, 2), ids(6, 7))])
    assert list(inspection.control_tokens(data, DPO, facts).values()) == [2, 1, 1]
    assert list(inspection.control_tokens(RunData(prompts=[Prompt(0, "p", "", ids(1, 1))]), DPO, facts).values()) == [1]


@pytest.mark.parametrize("text", ["why", "<bos> why"])
def test_a_text_that_brings_its_own_begin_token_gets_no_second_one(text: str, facts: PolicyFacts) -> None:
    """``special_tokens: allow`` is for prompts that were rendered beforehand."""
    config = DataConfig(chat_template=False, special_tokens="allow")
    assert PolicyTokenizer(config, facts).prompt_ids(text, "p").tolist() == [1, 5]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"), tied=True)


def inspect(tmp_path: Path, model: Path, records: list[dict[str, Any]], **sections: Any) -> str:
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(record) + "\n" for record in records))
    config = {
        "policy": {"path": str(model), "dtype": "float32"},
        "data": {"path": str(data), "chat_template": False} | sections.pop("data", {}),
        "rollout": {"max_tokens": 4},
        "placement": {"device": "cpu", "rollout": {"engines": 3}, "layout": "colocated"},  # wrong, and nothing to do with the data
    } | sections
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    done = CliRunner().invoke(app, ["inspect", "data", str(tmp_path / "run.yaml")], catch_exceptions=False)
    assert done.exit_code == 0
    return done.output


def test_the_command_on_pairs(tmp_path: Path, model: Path) -> None:
    """One pair compares an answer with itself, one is too long, one cannot be read: each is left out, and its place named."""
    records = [
        {"prompt": "w1", "chosen": "w2", "rejected": "w3"},
        {"prompt": "w1", "chosen": "w2", "rejected": "w2"},
        {"prompt": "w1 " * 600, "chosen": "w2", "rejected": "w3"},
        {"prompt": "w1", "chosen": "w2"},
        {"prompt": "w1", "chosen": "w3", "rejected": "w2"},
    ]
    shown = inspect(tmp_path, model, records, loss={"type": "dpo"}, data={"type": "preferences", "on_bad_record": "skip", "shuffle": False})
    lines = shown.splitlines()
    assert "    5'w2' 2</s>" in lines
    assert "2 examples to train on, 0 held out (above: ids with their texts, control tokens without quotes)" in lines
    counts = {
        line.rsplit(None, 1)[0].strip(): line.rsplit(None, 1)[1] for line in lines if line[-1:].isdigit() and not line.startswith("    ")
    }
    assert counts["pairs that say the opposite of another pair"] == "2"
    for reason, number in {"overlong": "1", "skipped": "1", "identical": "1", "unpicked": "0"}.items():
        assert counts[f"left out: {inspection.LEFT_OUT[reason]}"] == number
    told = " ".join(shown.split())
    assert all(f"{tmp_path / 'data.jsonl'}:{line}" in told for line in (2, 3, 4))


def test_the_command_on_prompts(tmp_path: Path, model: Path) -> None:
    shown = inspect(tmp_path, model, [{"prompt": "w1 w2"}, {"prompt": "w1 w2"}, {"prompt": "w3"}], loss={"type": "sppo"})
    assert "tokens less rollout.max_tokens = 4 leave" in shown
    assert any(line.split() == ["prompts", "that", "occur", "before", "1"] for line in shown.splitlines())
