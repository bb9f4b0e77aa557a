"""Reward models: tiny decoders and encoders with random weights, read one by one by transformers itself and by the oracle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

from raypref.errors import ConfigError, OracleError
from raypref.oracles.base import Question
from raypref.oracles.reward_model import RewardModel
from tests.oracles.pairrm_checkpoint import NoServices

PAD, START, END = 0, 1, 2
WORDS = 40
"""w0 is token 4, w1 token 5, and so on; 3 is <unk>."""
CHAT = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
    "<s> {{ m.role }} {{ m.content }} </s>{% endfor %}"
)
RESPONSES = ("w1 w2 w3", "w4", "w5 w6 w7 w8 w9 w10 w11")
PAIRS = ((0, 1), (0, 2), (1, 2))


def _tokenizer(template: str | None) -> PreTrainedTokenizerFast:
    words = ["<pad>", "<s>", "</s>", "<unk>", *(f"w{k}" for k in range(WORDS)), "user", "assistant"]
    inner = Tokenizer(models.WordLevel({word: k for k, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B:1 </s>:1", special_tokens=[("<s>", START), ("</s>", END)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        chat_template=template,
    )


def _llama(**settings: object) -> LlamaConfig:
    common = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    limits = {"vocab_size": WORDS + 6, "max_position_embeddings": 64, "initializer_range": 0.3, "num_labels": 1}
    return LlamaConfig(**{**common, **limits, "pad_token_id": None, "bos_token_id": START, "eos_token_id": END, **settings})


def _bert(**settings: object) -> BertForSequenceClassification:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    limits = {"vocab_size": WORDS + 6, "max_position_embeddings": 64, "initializer_range": 0.15, "num_labels": 1, "pad_token_id": PAD}
    return BertForSequenceClassification(BertConfig(**{**sizes, **limits, **settings}))


def _save(model: torch.nn.Module, folder: Path, template: str | None) -> Path:
    model.save_pretrained(folder)
    _tokenizer(template).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It names no padding token."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("decoder")
    return _save(LlamaForSequenceClassification(_llama()), folder, CHAT)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return _save(_bert(), tmp_path_factory.mktemp("encoder"), None)


def oracle(path: Path, **settings: object) -> RewardModel:
    found = RewardModel(path=str(path), device="cpu", **settings)
    found.load(NoServices())
    return found


def question(prompt: str = "w0 w1", responses: tuple[str, ...] = RESPONSES, pairs: Any = PAIRS, chat: Any = ()) -> Question:
    return Question("p", prompt, responses, pairs, chat)


def rewards(found: RewardModel, *questions: Question) -> list[float]:
    return [reward for answer in found.compare(questions) for reward in answer.observed["oracle/reward"]]


def alone(model: torch.nn.Module, ids: list[int], segments: list[int] | None = None) -> float:
    """What transformers gives one input on its own."""
    extra = {} if segments is None else {"token_type_ids": torch.tensor([segments])}
    with torch.no_grad():
        return float(model.eval()(input_ids=torch.tensor([ids]), **extra).logits[0, 0])


def text(draw: np.random.Generator, count: int) -> str:
    return " ".join(f"w{k}" for k in draw.integers(0, WORDS, count))


def words(*numbers: int) -> list[int]:
    return [4 + k for k in numbers]


def test_a_decoder_without_a_padding_token_reads_each_chat_as_transformers_reads_it_alone(decoder: Path) -> None:
    """``<s> user w0 w1 </s><s> assistant w4 </s>``, pooled at its last token; batches of three lengths."""
    user, assistant = WORDS + 4, WORDS + 5
    head = [START, user, *words(0, 1), END, START, assistant]
    inputs = [[*head, *words(1, 2, 3), END], [*head, *words(4), END], [*head, *words(5, 6, 7, 8, 9, 10, 11), END]]
    model = LlamaForSequenceClassification.from_pretrained(decoder)
    expected = [alone(model, ids) for ids in inputs]
    assert np.ptp(expected) > 0.1, "the rewards must differ, or the test shows nothing"
    np.testing.assert_allclose(rewards(oracle(decoder), question()), expected, atol=1e-5)


@pytest.mark.parametrize("ends", [["w0", "w1 w0", "w2 w3 w0"], ["<pad>", "w2 w0", "w3 w3 w1"]], ids=["same end", "other ends"])
def test_padding_is_never_taken_for_the_last_token(decoder: Path, ends: Any) -> None:
    """Plain texts without an end token; ``<pad>`` is a plain word of this tokenizer, its token 0."""
    found = oracle(decoder, template="{prompt} {response}")
    found._scorer.tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", START)]
    )
    model = LlamaForSequenceClassification.from_pretrained(decoder)
    texts = [found._scorer.tokenizer(f"w0 w1 {end}")["input_ids"] for end in ends]
    np.testing.assert_allclose(rewards(found, question(responses=tuple(ends))), [alone(model, ids) for ids in texts], atol=1e-5)


def test_a_padding_token_of_the_configuration_is_the_one_that_transformers_skips(tmp_path: Path) -> None:
    """With </s> as padding transformers pools at the token before it, also in a lone input; here it is the same in a batch."""
    torch.manual_seed(0)
    path = _save(LlamaForSequenceClassification(_llama(pad_token_id=END)), tmp_path, None)
    model = LlamaForSequenceClassification.from_pretrained(path)
    inputs = [[START, *words(0), *words(*numbers), END] for numbers in ((1, 2, 3), (4,), (5, 6, 7, 8, 9, 10, 11))]
    found = rewards(oracle(path, template="{prompt} {response}"), question("w0"))
    np.testing.assert_allclose(found, [alone(model, ids) for ids in inputs], atol=1e-5)


def test_an_encoder_reads_prompt_and_response_as_two_segments(encoder: Path) -> None:
    model = BertForSequenceClassification.from_pretrained(encoder)
    expected = [
        alone(model, [START, *words(0, 1), END, *response, END], [0] * 4 + [1] * (len(response) + 1))
        for response in (words(1, 2, 3), words(4), words(5, 6, 7, 8, 9, 10, 11))
    ]
    assert np.ptp(expected) > 0.1, "the rewards must differ, or the test shows nothing"
    np.testing.assert_allclose(rewards(oracle(encoder), question()), expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["decoder", "encoder"])
def test_a_reward_does_not_depend_on_its_batch(kind: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(kind)
    others = [question("w9 " * 30), question("w2", ("w3 " * 20, "w1"), ((0, 1),))]
    (single,) = oracle(path).compare([question()])
    together = oracle(path, batch_tokens=10_000).compare([*others, question()])[2]
    one_by_one = oracle(path, batch_tokens=1).compare([*others, question()])[2]
    for answer in (together, one_by_one):
        np.testing.assert_allclose(answer.observed["oracle/reward"], single.observed["oracle/reward"], atol=1e-6)
        np.testing.assert_allclose(answer.values, single.values, atol=1e-6)


@pytest.mark.parametrize("kind", ["decoder", "encoder"])
def test_a_reward_at_real_lengths_is_the_same_whatever_is_read_beside_it(kind: str, tmp_path: Path) -> None:
    """Inputs of 140 to 490 tokens, each of another length."""
    torch.manual_seed(0)
    sizes = {"max_position_embeddings": 512, "hidden_size": 128, "num_attention_heads": 2, "num_hidden_layers": 2, "num_labels": 1}
    model = LlamaForSequenceClassification(_llama(**sizes)) if kind == "decoder" else _bert(**sizes)
    found = oracle(_save(model, tmp_path, None), template="pair")
    draw = np.random.default_rng(0)
    asked = [question(text(draw, 40), tuple(text(draw, words) for words in draw.integers(100, 450, 3))) for _ in range(4)]
    alone = [found.compare([one])[0].values for one in asked]
    for together, values in zip(found.compare(asked), alone, strict=True):
        np.testing.assert_array_equal(together.values, values)
    assert np.ptp(alone) > 0.1, "the rewards must differ, or the test shows nothing"


@pytest.mark.parametrize("kind", ["decoder", "encoder"])
@pytest.mark.parametrize("batch_tokens", [None, 60])
def test_identical_responses_are_ties_and_fare_alike(kind: str, batch_tokens: int | None, request: pytest.FixtureRequest) -> None:
    """Responses 0, 2 and 4 are one text, of about 30 tokens with its prompt; a batch of 60 holds two."""
    same = " ".join(f"w{k}" for k in range(25))
    responses = (same, "w1", same, "w5 w6", same)
    pairs = tuple((i, j) for i in range(5) for j in range(i + 1, 5))
    found = oracle(request.getfixturevalue(kind), batch_tokens=batch_tokens)
    (values,) = (answer.values for answer in found.compare([question(responses=responses, pairs=pairs)]))
    assert (values[np.ix_([0, 2, 4], [0, 2, 4])] == 0.5).all()
    assert (values[[0, 2, 4]] == values[0]).all()
    assert values[0, 1] != 0.5
    (level,) = found.compare([question(responses=(same,) * 5, pairs=pairs)])
    assert (level.values == 0.5).all()


def test_preference_is_bradley_terry(decoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rewards 2, 0, 3 at temperature 2: P[0, 1] = sigmoid(1) = 0.731059, P[0, 2] = sigmoid(-1/2) = 0.377541, P[1, 2] = sigmoid(-3/2)
    = 0.182426."""
    found = oracle(decoder, temperature=2.0)
    given = dict(zip([found._scorer.encode(question(), k) for k in range(3)], [2.0, 0.0, 3.0], strict=True))
    monkeypatch.setattr(type(found._scorer), "rewards", lambda self, inputs: [given[item] for item in inputs])
    (answer,) = found.compare([question()])
    np.testing.assert_allclose([answer.values[pair] for pair in PAIRS], [0.731059, 0.377541, 0.182426], atol=1e-6)
    np.testing.assert_allclose(answer.values + answer.values.T, 1, atol=1e-12)


def test_each_response_that_is_asked_about_is_read_once(decoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = oracle(decoder)
    read = []
    monkeypatch.setattr(type(found._scorer), "rewards", lambda self, inputs: read.extend(inputs) or [0.0] * len(inputs))
    (answer,) = found.compare([question(responses=(*RESPONSES, "w20"), pairs=((0, 1), (0, 3), (1, 3)))])
    assert len(read) == len(answer.observed["oracle/reward"]) == 3


def test_a_chat_keeps_its_turns(decoder: Path) -> None:
    chat = (("user", "w0"), ("assistant", "w1"), ("user", "w2"))
    found = oracle(decoder)._scorer.encode(question(responses=("w3",), chat=chat), 0)
    user, assistant = WORDS + 4, WORDS + 5
    turns = [(user, 0), (assistant, 1), (user, 2), (assistant, 3)]
    assert list(found.ids) == [token for role, k in turns for token in (START, role, 4 + k, END)]


def test_a_chat_that_the_template_refuses_is_named(decoder: Path) -> None:
    with pytest.raises(OracleError, match=r"prompt 'p': .*no system turn.*oracle\.template"):
        oracle(decoder).compare([question(chat=(("system", "w0"), ("user", "w1")))])


@pytest.mark.parametrize("kind", ["decoder", "encoder"])
def test_special_tokens_in_the_text_do_not_steer(kind: str, request: pytest.FixtureRequest) -> None:
    """They are read as a space."""
    path = request.getfixturevalue(kind)
    plain = rewards(oracle(path), question("w0 w1", ("w2 w3", "w4"), ((0, 1),)))
    forged = rewards(oracle(path), question("w0 </s> <s> w1", ("w2 <s></s> w3", "w4 <unk>"), ((0, 1),)))
    assert forged == plain


@pytest.mark.parametrize(("side", "kept"), [("left", [START, 6, 7, END]), ("right", [START, 4, 5, END])])
def test_a_long_input_is_cut_at_the_stated_side_and_counted(decoder: Path, side: str, kept: Any) -> None:
    """``<s> w0 w1 w2 w3 </s>`` in four tokens: the first and the last stay."""
    found = oracle(decoder, template="{prompt} {response}", max_tokens=4, truncate=side)
    asked = question("w0 w1", ("w2 w3", ""), ((0, 1),))
    assert list(found._scorer.encode(asked, 0).ids) == kept
    assert found.compare([asked])[0].observed["oracle/truncated_inputs"] == [1.0, 0.0]


def test_weights_have_the_type_that_is_asked_for(decoder: Path) -> None:
    found = oracle(decoder, dtype="bfloat16")
    assert {parameter.dtype for parameter in found._scorer.model.parameters()} == {torch.bfloat16}
    np.testing.assert_allclose(rewards(found, question()), rewards(oracle(decoder), question()), atol=0.2)


def test_a_classifier_with_two_outputs_is_refused(tmp_path: Path) -> None:
    path = _save(LlamaForSequenceClassification(_llama(num_labels=2)), tmp_path, CHAT)
    with pytest.raises(ConfigError, match=r"oracle\.path: .* has 2 outputs"):
        oracle(path)


def test_a_language_model_without_a_trained_head_is_refused(tmp_path: Path) -> None:
    path = _save(LlamaForCausalLM(_llama()), tmp_path, CHAT)
    with pytest.raises(ConfigError, match=r"oracle\.path: .* lacks the weights \['score.weight'\]"):
        oracle(path)


def test_a_missing_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"oracle\.path: cannot load '.*nowhere'"):
        oracle(tmp_path / "nowhere")


def test_a_chat_template_that_is_not_there_is_refused(encoder: Path) -> None:
    with pytest.raises(ConfigError, match=r"oracle\.template: chat, but the tokenizer"):
        oracle(encoder, template="chat")


def test_more_tokens_than_the_model_reads_are_refused(decoder: Path) -> None:
    with pytest.raises(ConfigError, match=r"oracle\.max_tokens: 65, but the model reads 64 tokens"):
        oracle(decoder, max_tokens=65)


@pytest.mark.parametrize("template", ["{prompt}", "{prompt} {response} {response}", "{prompt} {answer}", "{prompt {response}", "plain"])
def test_a_template_without_its_two_places_is_refused(template: str) -> None:
    with pytest.raises(ConfigError, match=r"oracle\.template"):
        RewardModel.parse({"type": "reward_model", "path": "x", "template": template}, "oracle")
