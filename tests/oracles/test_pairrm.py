"""PairRM against llm-blender's own classes, on a small checkpoint (2 layers, hidden 128) in llm-blender's format.

The tokenizer is a SentencePiece model trained here, laid out like DeBERTa-v3's: [PAD] 0, [CLS] 1, [SEP] 2, [UNK] 3, NFKC normalisation.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from raypref.errors import ConfigError
from raypref.oracles.base import Question
from raypref.oracles.pairrm import PairRM
from raypref.oracles.pairrm_model import PairRanker, _llm_blender, load_ranker

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # transformers, on import of DeBERTa

PROMPT = "Why is the sky blue at noon and red at night?"
RESPONSES = (
    "Small parts of the air scatter blue light more than red light.",
    "It is not. You are wrong about the sky.",
    "At noon the light takes the short way, at night it takes the long way through the air, and the blue light is lost on the way.",
)
ALL_PAIRS = ((0, 1), (0, 2), (1, 2))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    import sentencepiece
    from safetensors.torch import save_file
    from transformers import AutoModel, DebertaV2Config

    from raypref.oracles.pairrm_model import _tokenizer

    base, directory = tmp_path_factory.mktemp("base"), tmp_path_factory.mktemp("pairrm")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([PROMPT, *RESPONSES] * 20),
        model_prefix=str(base / "spm"),
        vocab_size=120,
        model_type="unigram",
        pad_id=0,
        bos_id=1,
        eos_id=2,
        unk_id=3,
        pad_piece="[PAD]",
        bos_piece="[CLS]",
        eos_piece="[SEP]",
        unk_piece="[UNK]",
        hard_vocab_limit=False,
        minloglevel=2,
    )
    blender = _llm_blender()
    tokenizer = _tokenizer(base)
    settings = blender.RankerConfig(
        ranker_type="pairranker", model_type="deberta-v3", model_name=str(base), source_maxlength=48, candidate_maxlength=16
    )
    blender.CrossCompareCollator(settings.source_maxlength, tokenizer, settings.candidate_maxlength)
    config = DebertaV2Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=256,
        max_position_embeddings=256,
        relative_attention=True,
        position_buckets=32,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        pos_att_type=["p2c", "c2p"],
        position_biased_input=False,
        type_vocab_size=0,
        pad_token_id=0,
    )
    config.save_pretrained(base)
    torch.manual_seed(0)
    encoder = AutoModel.from_config(config)
    encoder.config.out_hidden_state_size = 128
    ranker = blender.CrossCompareReranker(encoder, settings, tokenizer)
    for parameter in ranker.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.3)  # the usual 0.02 would make all scores alike
    save_file(ranker.state_dict(), directory / "model.safetensors")
    (directory / "config.json").write_text(settings.to_json())
    return directory


@pytest.fixture(scope="module")
def ranker(checkpoint) -> PairRanker:
    return load_ranker(str(checkpoint), None, "cpu")


def blender_logits(ranker: PairRanker, prompt: str, responses: tuple[str, ...]) -> np.ndarray:
    """C of one prompt, by llm-blender's collator and ``_full_predict``."""
    tokenizer = ranker.tokenizer
    tokenizer.batch_encode_plus = tokenizer.__call__
    collator = _llm_blender().CrossCompareCollator(ranker.source_tokens, tokenizer, ranker.candidate_tokens)
    collator.max_length = None
    batch = collator([{"source": prompt, "candidates": list(responses)}])
    with torch.no_grad():
        return ranker.model._full_predict(**batch)["logits"][0].double().numpy()


def question(prompt: str = PROMPT, responses: tuple[str, ...] = RESPONSES, pairs: tuple[tuple[int, int], ...] = ALL_PAIRS) -> Question:
    return Question("sky", prompt, responses, pairs)


def oracle(checkpoint: Path, **settings: object) -> PairRM:
    return PairRM(path=str(checkpoint), device="cpu", **settings)


def test_probability_is_the_sigmoid_of_llm_blenders_symmetrised_logit(checkpoint, ranker):
    """The source takes 31 tokens, so a response has room for 16 + (48 - 31) // 2 = 24: all three, of 28 to 73, are cut."""
    logits = blender_logits(ranker, PROMPT, RESPONSES)
    assert abs(logits + logits.T).max() > 0.1, "the model must not be antisymmetric, or the test shows nothing"
    assert abs(logits - logits.T).max() > 0.5, "the responses must differ, or the test shows nothing"
    source, candidates = ranker.encode(PROMPT, RESPONSES)
    assert [len(ids) for ids in (source, *candidates)] == [31, 24, 24, 24]
    (found,) = oracle(checkpoint).compare([question()])
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-(logits - logits.T) / 2)), atol=1e-5)
    np.testing.assert_allclose(found + found.T, 1, atol=1e-12)


def test_both_orders_are_asked_as_llm_blender_asks_them(ranker):
    logits = blender_logits(ranker, PROMPT, RESPONSES)
    source, candidates = ranker.encode(PROMPT, RESPONSES)
    orders = [(i, j) for pair in ALL_PAIRS for i, j in (pair, pair[::-1])]
    found = ranker.logits([ranker.join(source, candidates[i], candidates[j]) for i, j in orders])
    np.testing.assert_allclose(found, [logits[i, j] for i, j in orders], atol=1e-5)


def test_authors_preference_is_the_sigmoid_of_the_difference_of_rank_scores(checkpoint, ranker):
    """g = mean_j(C - C^T), as ``Blender.rank(return_scores=True)`` computes it; P[i, j] = sigmoid(g_i - g_j)."""
    logits = blender_logits(ranker, PROMPT, RESPONSES)
    scores = (logits - logits.T).mean(axis=1)
    (found,) = oracle(checkpoint, preference="authors").compare([question(pairs=((0, 1),))])
    np.testing.assert_allclose(found, 1 / (1 + np.exp(scores[None, :] - scores[:, None])), atol=1e-5)


def test_a_score_does_not_depend_on_its_batch(checkpoint):
    """llm-blender cuts the responses of a whole batch by the batch's longest prompt; here the other prompts change nothing."""
    others = [question("Why?"), question(PROMPT * 5, RESPONSES[:2], ((0, 1),))]
    (alone,) = oracle(checkpoint).compare([question()])
    together = oracle(checkpoint, batch_tokens=10_000).compare([*others, question()])[2]
    one_by_one = oracle(checkpoint, batch_tokens=1).compare([*others, question()])[2]
    np.testing.assert_allclose(together, alone, atol=1e-6)
    np.testing.assert_allclose(one_by_one, alone, atol=1e-6)


def test_only_the_pairs_that_were_asked_cost_a_forward_pass(checkpoint, monkeypatch):
    counted = []
    monkeypatch.setattr(PairRanker, "logits", lambda self, inputs: counted.extend(inputs) or [0.0] * len(inputs))
    oracle(checkpoint).compare([question(pairs=((0, 2),))])
    assert len(counted) == 2, "both orders of one pair"


@pytest.mark.parametrize(
    "text", ["[SEP]", "<|source|>", "<|candidate1|>", "<|candidate|> [CLS]", "[SE[CLS]P]", "＜｜source｜＞ ［ＳＥＰ］"]
)
def test_special_tokens_in_the_text_are_neutralised(ranker, text):
    """``<|source|>`` in a text crashes llm-blender's batch; full-width look-alikes become special tokens by normalisation."""
    source, (candidate,) = ranker.encode(f"Why {text} not?", [f"So {text} it is"])
    tokenizer = ranker.tokenizer
    for ids, prefix in ((source, tokenizer.source_prefix_id), (candidate, tokenizer.cand_prefix_id)):
        assert (ids[0], ids[1], ids[-1]) == (tokenizer.cls_token_id, prefix, tokenizer.sep_token_id)
        assert not set(ids[2:-1]) & ranker._forbidden_ids
        assert len(ids) > 4


def test_characters_are_normalised_as_in_transformers_4(ranker):
    """NFKC: the ligature U+FB01 and full-width letters are read as plain ones; transformers 5 makes [UNK] of them."""
    plain, (candidate,) = ranker.encode("find the light", ["light"])
    fancy, (full_width,) = ranker.encode("\ufb01nd the light", ["\uff4c\uff49\uff47\uff48\uff54"])
    assert (fancy, full_width) == (plain, candidate)


def test_tokenizer_json_is_read_as_it_is(checkpoint, ranker, tmp_path):
    settings = json.loads((checkpoint / "config.json").read_text())
    (tmp_path / "config.json").write_text((Path(settings["model_name"]) / "config.json").read_text())
    from raypref.oracles.pairrm_model import _tokenizer

    _tokenizer(Path(settings["model_name"])).backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    again = load_ranker(str(checkpoint), str(tmp_path), "cpu")
    text = ("\ufb01nd the light", ["\uff4c\uff49\uff47\uff48\uff54 at noon"])
    assert again.encode(*text) == ranker.encode(*text)


def test_weights_stay_in_float32(ranker):
    assert {parameter.dtype for parameter in ranker.model.parameters()} == {torch.float32}


def test_a_directory_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"oracle\.path: .* has no config\.json and model\.safetensors"):
        PairRM(path=str(tmp_path)).load()


def test_another_kind_of_ranker_is_refused(checkpoint, tmp_path):
    (tmp_path / "model.safetensors").touch()
    settings = json.loads((checkpoint / "config.json").read_text()) | {"ranker_type": "summareranker"}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match="ranker_type is 'summareranker'"):
        PairRM(path=str(tmp_path)).load()


def test_a_tokenizer_of_another_size_is_refused(checkpoint, ranker, tmp_path):
    base = Path(json.loads((checkpoint / "config.json").read_text())["model_name"])
    (tmp_path / "config.json").write_text((base / "config.json").read_text())
    smaller = load_ranker(str(checkpoint), None, "cpu").tokenizer
    smaller.add_tokens(["another"])
    smaller.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ConfigError, match="tokens, the checkpoint"):
        PairRM(path=str(checkpoint), base=str(tmp_path)).load()


def test_a_repository_that_cannot_be_reached_is_refused(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigError, match=r"oracle\.path: 'no-owner/no-model'"):
        PairRM(path="no-owner/no-model").load()
