"""Given preferences as examples: tokens, targets, order, what is dropped."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest

from raypref.data.config import DataConfig
from raypref.data.examples import ExampleBuilder
from raypref.data.given_preferences import PreferenceData, load_preferences
from raypref.data.policy_facts import PolicyFacts
from raypref.errors import ConfigError, DataError
from raypref.losses.base import Loss
from raypref.losses.dpo import DPO
from raypref.losses.kto import KTO
from raypref.losses.sppo import SPPO
from raypref.selection.all_pairs import AllPairs
from raypref.selection.best_worst import BestWorst

EOS = 2
PAIRS = [
    {"prompt": "why", "chosen": " so", "rejected": " not because"},
    {"prompt": "how", "chosen": " because", "rejected": " not"},
    {"prompt": "so", "chosen": " how", "rejected": " why"},
]
RANKED = [{"prompt": "why", "responses": [" so", " not", " because"], "ranking": [2, 0, 1]}]


def load(
    tokenizer: Any, records: Any, loss: Loss | None = None, selection: Any = None, *, context: int = 20, **config: Any
) -> PreferenceData:
    section = DataConfig(type="preferences", **{"chat_template": False, "shuffle": False} | config)
    loss = loss or DPO()
    makers: dict[str, Any] = {"loss": loss, "selection": selection, "builder": ExampleBuilder(loss, None, context)}
    return load_preferences(section, PolicyFacts(tokenizer, context, (EOS,)), 0, **makers, records=records)


def test_pairs(tokenizer: Any) -> None:
    """``<bos> why`` 1 5 with ``so <eos>`` 7 2 and ``not because <eos>`` 9 8 2; hard labels (1, 0); nobody of the run sampled them."""
    data = load(tokenizer, PAIRS)
    first = data.examples[0]
    assert [ids.tolist() for ids in first.prompt_ids] == [[1, 5], [1, 5]]
    assert [ids.tolist() for ids in first.response_ids] == [[7, 2], [9, 8, 2]]
    assert (first.targets.tolist(), first.policy_version, first.prompt_id) == ([1.0, 0.0], None, "0")
    assert [example.prompt_index for example in data.examples] == [prompt.index for prompt in data.prompts] == [0, 1, 2]
    assert data.prompts[1].text == "how"


def test_a_ranking_is_one_example_best_first_and_a_selection_makes_others(tokenizer: Any) -> None:
    """because > so > not. SPPO with eta = 6 over all three: w = (2.5, 1.5, 0.5) / 3, targets 6 (w - 1/2) = 2, 0, -2."""
    (whole,) = load(tokenizer, RANKED, SPPO(eta=6)).examples
    assert [int(ids[0]) for ids in whole.response_ids] == [8, 7, 9]
    np.testing.assert_allclose(whole.targets, [2, 0, -2], atol=1e-12)
    (pair,) = load(tokenizer, RANKED, selection=BestWorst()).examples
    assert [int(ids[0]) for ids in pair.response_ids] == [8, 9]
    every = load(tokenizer, RANKED, selection=AllPairs()).examples
    assert [[int(ids[0]) for ids in example.response_ids] for example in every] == [
        [8, 7],
        [8, 9],
        [7, 9],
    ]
    with pytest.raises(ConfigError, match="selection"):
        load(tokenizer, RANKED)


def test_soft_scores_become_soft_targets(tokenizer: Any) -> None:
    records = [{"prompt": "why", "responses": [" so", " not"], "scores": [0.0, 1.0]}]
    (example,) = load(tokenizer, records, DPO(labels="soft"), verdicts="soft").examples
    chance = 1 / (1 + np.exp(-1))
    np.testing.assert_allclose(example.targets, [chance, 1 - chance])
    assert int(example.response_ids[0][0]) == 9


def test_a_comparison_that_the_data_does_not_have(tokenizer: Any) -> None:
    """Win rates over a best-of-n set: two answers were never compared."""
    records = [{"prompt": "why", "responses": [" so", " not", " because"], "best": 0}]
    with pytest.raises(ConfigError, match=r"record number 0|record 0 of those passed to run\(\): loss 'sppo' needs a comparison"):
        load(tokenizer, records, SPPO())


def test_too_long_records_are_dropped_and_counted(tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    """1 5 9 8 2 has five tokens; the others have four."""
    data = load(tokenizer, PAIRS, context=4)
    assert [example.prompt_id for example in data.examples] == ["1", "2"]
    assert [prompt.id for prompt in data.prompts] == ["1", "2"]
    assert data.dropped == 1
    assert "1 of 3 records give no example; too long for 4 tokens: 1 (the first: record 0 of those" in caplog.text
    with pytest.raises(DataError, match=r"record 0 .*: prompt and answer have 5 tokens, the context 4"):
        load(tokenizer, PAIRS, context=4, overlong="refuse")
    with pytest.raises(DataError, match="none of 3 records gives an example"):
        load(tokenizer, PAIRS, context=3)


def test_records_set_apart_are_prompts_for_evaluation(tokenizer: Any) -> None:
    data = load(tokenizer, PAIRS, held_out_prompts=1)
    assert [example.prompt_id for example in data.examples] == ["0", "1"]
    assert [(prompt.id, prompt.index, prompt.token_ids.tolist()) for prompt in data.held_out] == [("2", 0, [1, 7])]
    with pytest.raises(DataError, match="3 are to be set apart from 3 records"):
        load(tokenizer, PAIRS, held_out_prompts=3)


def test_shuffled_once(tokenizer: Any) -> None:
    records = [{"prompt": "why", "chosen": " so", "rejected": " not", "id": f"r{k}"} for k in range(20)]
    data = load(tokenizer, records, shuffle=True)
    names = [example.prompt_id for example in data.examples]
    assert sorted(names) == sorted(f"r{k}" for k in range(20))
    assert names != [f"r{k}" for k in range(20)]
    assert [prompt.id for prompt in data.prompts] == names


def test_mismatched_responses_come_from_the_record_before(tokenizer: Any) -> None:
    """The first one's partner is the last."""

    class Doubled(DPO):
        mismatched: ClassVar[bool] = True

    examples = load(tokenizer, PAIRS, Doubled()).examples
    assert [[int(ids[0]) for ids in example.response_ids] for example in examples] == [[7, 9, 6, 5], [8, 9, 7, 9], [6, 5, 8, 9]]
    assert examples[0].targets.tolist() == [1, 0, 1, 0]
    with pytest.raises(DataError, match="need the responses of another prompt"):
        load(tokenizer, PAIRS[:1], Doubled())


UNPAIRED = [
    {"prompt": "why", "completion": " so", "label": True},
    {"prompt": "how", "completion": " not because", "label": False},
]


def test_unpaired_records_for_kto(tokenizer: Any) -> None:
    """One answer and its label, followed by the answer to the other prompt: ``so`` 7, ``not because`` 9 8; targets 1 and 0."""
    first, second = load(tokenizer, UNPAIRED, KTO()).examples
    assert [ids.tolist() for ids in first.response_ids] == [[7, 2], [9, 8, 2]]
    assert [ids.tolist() for ids in second.response_ids] == [[9, 8, 2], [7, 2]]
    assert (first.targets.tolist(), second.targets.tolist()) == ([1, 1], [0, 0])


def test_a_loss_of_pairs_refuses_unpaired_records(tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match=r"loss\.type: 'dpo' compares answers, .*record 0 .*; set loss\.type=kto, or give pairs"):
        load(tokenizer, UNPAIRED)
    with pytest.raises(ConfigError, match=r"selection: there is nothing to select from a record with one answer"):
        load(tokenizer, UNPAIRED, KTO(), selection=BestWorst())


def test_bad_records_are_skipped_and_counted(tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    """What is too long, and what cannot be used, are told apart, each with its first place. The numbers of the others stay."""
    records = [PAIRS[1], {"prompt": "why"}, {"prompt": "why", "chosen": "so", "rejected": ""}, PAIRS[0], PAIRS[2]]
    data = load(tokenizer, records, context=4, on_bad_record="skip")
    assert [example.prompt_id for example in data.examples] == ["0", "4"]
    assert (data.skipped, data.overlong, data.dropped) == (2, 1, 1)
    assert "data.path: 2 records skipped (data.on_bad_record=skip); the first: record 1 of those" in caplog.text
    assert (
        "1 of 3 records give no example; too long for 4 tokens: 1 (the first: record 3 of those passed to run(), 5 tokens)" in caplog.text
    )
    with pytest.raises(DataError, match="record 1 of those"):
        load(tokenizer, records)


def test_no_source(tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match=r"data\.path: required"):
        load(tokenizer, None)


def test_an_answer_compared_with_itself_is_left_out_and_counted(tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    """``so`` against ``so``: no answer is better. The texts may differ where the tokens are the same."""
    same = [{"prompt": "why", "chosen": " so", "rejected": " so"}, {"prompt": "how", "chosen": " so ", "rejected": " so"}]
    data = load(tokenizer, [*same, PAIRS[0]])
    assert [example.prompt_id for example in data.examples] == [prompt.id for prompt in data.prompts] == ["2"]
    assert (data.dropped, data.identical, data.unpicked, data.overlong, data.skipped) == (2, 2, 0, 0, 0)
    assert "comparisons of an answer with itself, which are left out (data.identical=drop): 2 (the first: record 0" in caplog.text
    with pytest.raises(DataError, match=r"none of 2 records gives an example.*an answer compared with itself.*: 2"):
        load(tokenizer, same)


def test_an_answer_compared_with_itself_can_be_kept_or_refused(tokenizer: Any) -> None:
    same = [{"prompt": "why", "chosen": " so", "rejected": " so"}]
    (kept,) = load(tokenizer, same, identical="keep").examples
    assert [ids.tolist() for ids in kept.response_ids] == [[7, EOS]] * 2
    with pytest.raises(DataError, match=r"record 0 .*: the answers that are compared are the same, .* data\.identical=drop"):
        load(tokenizer, same, identical="refuse")


def test_of_several_pairs_of_a_record_only_those_of_the_same_answer_are_left_out(tokenizer: Any) -> None:
    """so, so and not have three pairs, one of them so against so."""
    records = [{"prompt": "why", "responses": [" so", " so", " not"], "ranking": [0, 1, 2]}]
    data = load(tokenizer, records, selection=AllPairs())
    assert [[int(ids[0]) for ids in example.response_ids] for example in data.examples] == [[7, 9], [7, 9]]
    assert (data.dropped, data.identical) == (0, 1)
    (listed,) = load(tokenizer, records, SPPO()).examples
    assert len(listed.response_ids) == 3, "an example with another answer beside the two says something"
