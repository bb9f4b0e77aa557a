"""PairRM against llm-blender's own classes, on a small checkpoint (2 layers, hidden 128) in llm-blender's format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raypref.errors import ConfigError
from raypref.oracles.base import Chat, Question
from raypref.oracles.pairrm import PairRM, _encode
from raypref.oracles.support.pairrm_model import Encoded, PairRanker, _llm_blender, load_ranker, tensor_float_32
from raypref.preferences import sppo_preferences
from tests.oracles.pairrm_checkpoint import Checkpoint, NoServices, make_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # transformers, on import of DeBERTa

PROMPT = "Why is the sky blue at noon and red at night?"
RESPONSES = (
    "Small parts of the air scatter blue light more than red light.",
    "It is not. You are wrong about the sky.",
    "At noon the light takes the short way, at night it takes the long way through the air, and the blue light is lost on the way.",
)
ALL_PAIRS = ((0, 1), (0, 2), (1, 2))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return make_checkpoint(tmp_path_factory.mktemp("pairrm"), [PROMPT, *RESPONSES] * 20, vocabulary=120)


@pytest.fixture(scope="module")
def roomy(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Its limits leave every text of these tests whole."""
    folder = tmp_path_factory.mktemp("roomy")
    return make_checkpoint(folder, [PROMPT, *RESPONSES] * 20, vocabulary=120, source_tokens=400, candidate_tokens=200)


@pytest.fixture(scope="module")
def checkpoint(made: Checkpoint) -> Path:
    return made.path


@pytest.fixture(scope="module")
def ranker(checkpoint: Path) -> PairRanker:
    return load_ranker(str(checkpoint), None, "cpu")


@pytest.fixture(scope="module")
def blender(roomy: Checkpoint) -> Any:
    return roomy.blender()


def blender_logits(ranker: PairRanker, prompt: str, responses: tuple[str, ...]) -> np.ndarray:
    """C of one prompt, by llm-blender's collator and ``_full_predict``."""
    tokenizer = ranker.tokenizer
    tokenizer.batch_encode_plus = tokenizer.__call__
    collator = _llm_blender().CrossCompareCollator(ranker.source_tokens, tokenizer, ranker.candidate_tokens)
    collator.max_length = None
    batch = collator([{"source": prompt, "candidates": list(responses)}])
    with torch.no_grad():
        return ranker.model._full_predict(**batch)["logits"][0].double().numpy()


def question(
    prompt: str = PROMPT, responses: tuple[str, ...] = RESPONSES, pairs: tuple[tuple[int, int], ...] = ALL_PAIRS, chat: Chat = ()
) -> Question:
    return Question("sky", prompt, responses, pairs, chat)


def oracle(path: Path, **settings: object) -> PairRM:
    found = PairRM(path=str(path), device="cpu", **settings)
    found.load(NoServices())
    return found


def sigmoid(scores: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-scores))


def test_probability_is_the_sigmoid_of_llm_blenders_symmetrised_logit(checkpoint: Path, ranker: PairRanker) -> None:
    """The source takes 31 tokens, so a response has room for 16 + (48 - 31) // 2 = 24: all three, of 28 to 73, are cut."""
    logits = blender_logits(ranker, PROMPT, RESPONSES)
    assert abs(logits + logits.T).max() > 0.1, "the model must not be antisymmetric, or the test shows nothing"
    assert abs(logits - logits.T).max() > 0.5, "the responses must differ, or the test shows nothing"
    source, candidates = ranker.encode(PROMPT, RESPONSES)
    assert [len(text.ids) for text in (source, *candidates)] == [31, 24, 24, 24]
    (found,) = oracle(checkpoint).compare([question()])
    np.testing.assert_allclose(found.values, sigmoid((logits - logits.T) / 2), atol=1e-5)
    np.testing.assert_allclose(found.values + found.values.T, 1, atol=1e-12)
    lean = [sigmoid(logits[i, j]) + sigmoid(logits[j, i]) - 1 for i, j in ALL_PAIRS]
    np.testing.assert_allclose(found.observed["oracle/position_bias"], lean, atol=1e-5)
    assert found.observed["oracle/truncated_inputs"] == [1.0] * 6


def test_an_input_is_cut_where_one_of_its_texts_is(checkpoint: Path) -> None:
    """A short prompt leaves room for 28 tokens, not for 73."""
    (found,) = oracle(checkpoint).compare([question("Why?", (RESPONSES[1], "It is.", RESPONSES[2]))])
    assert found.observed["oracle/truncated_inputs"] == [0.0, 0.0, 1.0, 1.0, 1.0, 1.0]


def test_one_order_gives_the_logit_of_what_was_shown(checkpoint: Path, ranker: PairRanker, monkeypatch: pytest.MonkeyPatch) -> None:
    logits = blender_logits(ranker, PROMPT, RESPONSES)
    monkeypatch.setattr("raypref.oracles.pairrm.shown", lambda question, orders: {"one": [(1, 0), (0, 2), (2, 1)]}[orders])
    (found,) = oracle(checkpoint, orders="one").compare([question()])
    for first, second in ((1, 0), (0, 2), (2, 1)):
        np.testing.assert_allclose(found.values[first, second], sigmoid(logits[first, second]), atol=1e-5)
    np.testing.assert_allclose(found.values + found.values.T, 1, atol=1e-12)
    assert found.observed["oracle/position_bias"] == []


def test_uncut_texts_are_scored_as_by_blender_rank(roomy: Checkpoint, blender: Any) -> None:
    """The authors' compute_prob.py: P[i, j] = 1 / (1 + exp(score_j - score_i)) of the scores of ``Blender.rank``, mean over j."""
    (scores,) = blender.rank([PROMPT], [list(RESPONSES)], return_scores=True)
    (found,) = oracle(roomy.path).compare([question()])
    assert found.observed["oracle/truncated_inputs"] == [0.0] * 6
    theirs = sigmoid(scores[:, None].astype(np.float64) - scores[None, :])
    assert np.ptp(theirs) > 0.5, "the responses must differ, or the test shows nothing"
    np.testing.assert_allclose(sppo_preferences(found.values).mean(axis=1), theirs.mean(axis=1), atol=1e-5)


def test_a_chat_is_rendered_as_by_compare_conversations(roomy: Checkpoint, blender: Any) -> None:
    """``compare`` returns C[a, b] - C[b, a], twice the score."""
    chat = (("user", "Is it night?"), ("assistant", "It is noon."), ("user", PROMPT))
    said = [{"role": role.upper(), "content": content} for role, content in chat]
    conversations = [[*said, {"role": "ASSISTANT", "content": response}] for response in RESPONSES[:2]]
    (logit,) = blender.compare_conversations([conversations[0]], [conversations[1]], return_logits=True)
    (found,) = oracle(roomy.path).compare([question("the same as plain text", RESPONSES[:2], ((0, 1),), chat)])
    assert abs(logit) > 0.1
    np.testing.assert_allclose(found.values[0, 1], sigmoid(logit / 2), atol=1e-5)
    assert found.observed["oracle/truncated_inputs"] == [0.0, 0.0]


@pytest.mark.parametrize(
    ("newer", "read"),
    [("No.", "<Response 2>: No.\n<Response 3>: It is."), (PROMPT * 20, "<Response 3>: It is.")],
    ids=["the oldest goes", "both go"],
)
def test_earlier_answers_make_room_for_the_one_that_is_judged(roomy: Checkpoint, newer: Any, read: Any) -> None:
    """A candidate has room for 400 tokens at most; 20 times the prompt are about 580."""
    ranker = load_ranker(str(roomy.path), None, "cpu")
    chat = (("user", "Why?"), ("assistant", PROMPT * 20), ("user", "Why?"), ("assistant", newer), ("user", "Why?"))
    _, (found,) = _encode(ranker, question(responses=("It is.",), pairs=(), chat=chat))
    _, (expected,) = ranker.encode("", [read])
    assert found == Encoded(expected.ids, cut=True)
    assert not expected.cut


@pytest.mark.parametrize("chat", [(("user", PROMPT),), (("system", "Be brief."), ("user", PROMPT))], ids=["single", "system"])
def test_other_chats_are_read_as_plain_text(ranker: PairRanker, chat: Any) -> None:
    assert _encode(ranker, question(chat=chat)) == ranker.encode(PROMPT, RESPONSES)


def test_both_orders_are_asked_as_llm_blender_asks_them(ranker: PairRanker) -> None:
    logits = blender_logits(ranker, PROMPT, RESPONSES)
    source, candidates = ranker.encode(PROMPT, RESPONSES)
    orders = [(i, j) for pair in ALL_PAIRS for i, j in (pair, pair[::-1])]
    found = ranker.logits([ranker.join(source, candidates[i], candidates[j]) for i, j in orders])
    np.testing.assert_allclose(found, [logits[i, j] for i, j in orders], atol=1e-5)


def test_a_score_does_not_depend_on_its_batch(checkpoint: Path) -> None:
    """llm-blender cuts the responses of a whole batch by the batch's longest prompt; here the other prompts change nothing."""
    others = [question("Why?"), question(PROMPT * 5, RESPONSES[:2], ((0, 1),))]
    (alone,) = oracle(checkpoint).compare([question()])
    together = oracle(checkpoint, batch_tokens=10_000).compare([*others, question()])[2]
    one_by_one = oracle(checkpoint, batch_tokens=1).compare([*others, question()])[2]
    np.testing.assert_allclose(together.values, alone.values, atol=1e-6)
    np.testing.assert_allclose(one_by_one.values, alone.values, atol=1e-6)


def text(draw: np.random.Generator, words: int) -> str:
    return " ".join(draw.choice(" ".join(RESPONSES).split(), words))


def test_a_matrix_is_the_same_whatever_is_scored_beside_it_at_real_lengths(roomy: Checkpoint) -> None:
    """Inputs of some 200 to 600 tokens, each of another length. In batches rounding would move P by up to 5e-6."""
    found = oracle(roomy.path)
    draw = np.random.default_rng(0)
    asked = [question(text(draw, 30), tuple(text(draw, words) for words in draw.integers(30, 110, 3))) for _ in range(3)]
    alone = [found.compare([one])[0].values for one in asked]
    for together, values in zip(found.compare(asked), alone, strict=True):
        np.testing.assert_array_equal(together.values, values)
    assert np.ptp(alone) > 0.5, "the responses must differ, or the test shows nothing"


@pytest.mark.parametrize("orders", ["both", "one"])
@pytest.mark.parametrize("batch_tokens", [None, 250, 10_000])
def test_identical_responses_are_ties_and_fare_alike(checkpoint: Path, orders: Any, batch_tokens: int | None) -> None:
    """Responses 0, 1, 3 and 5 are one text: 1/2 among themselves, and the same to the last bit against the others. Batches of 250
    tokens hold three inputs."""
    same = RESPONSES[0]
    responses = (same, same, RESPONSES[1], same, RESPONSES[2], same)
    pairs = tuple((i, j) for i in range(6) for j in range(i + 1, 6))
    found = oracle(checkpoint, orders=orders, batch_tokens=batch_tokens)
    (values,) = (answer.values for answer in found.compare([question(responses=responses, pairs=pairs)]))
    assert (values[np.ix_([0, 1, 3, 5], [0, 1, 3, 5])] == 0.5).all()
    assert (values[[0, 1, 3, 5]] == values[0]).all()
    assert abs(values[0, 2] - 0.5) > 0.01, "the others must differ, or the test shows nothing"
    (level,) = found.compare([question(responses=(same,) * 5, pairs=tuple((i, j) for i, j in pairs if j < 5))])
    assert (level.values == 0.5).all()
    assert level.observed == {"oracle/position_bias": [], "oracle/truncated_inputs": []}


def test_responses_that_are_cut_to_the_same_text_are_ties(checkpoint: Path) -> None:
    """A response has room for 24 tokens; these differ behind them."""
    responses = tuple(f"{RESPONSES[2]} {end}" for end in RESPONSES)
    (answer,) = oracle(checkpoint).compare([question(responses=responses)])
    assert (answer.values == 0.5).all()


def test_only_the_pairs_that_were_asked_cost_a_forward_pass(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = []
    monkeypatch.setattr(PairRanker, "logits", lambda self, inputs: counted.extend(inputs) or [0.0] * len(inputs))
    oracle(checkpoint).compare([question(pairs=((0, 2),))])
    assert len(counted) == 2, "both orders of one pair"
    oracle(checkpoint, orders="one").compare([question(pairs=((0, 2),))])
    assert len(counted) == 3, "and one"


def test_what_does_not_change_the_answer_is_not_part_of_its_identity(checkpoint: Path) -> None:
    assert PairRM(batch_tokens=5, device="cpu").identity() == PairRM().identity() != PairRM(orders="one").identity()


@pytest.mark.parametrize(
    "text", ["[SEP]", "<|source|>", "<|candidate1|>", "<|candidate|> [CLS]", "[SE[CLS]P]", "＜｜source｜＞ ［ＳＥＰ］"]
)
def test_special_tokens_in_the_text_are_neutralised(ranker: PairRanker, text: str) -> None:
    """``<|source|>`` in a text crashes llm-blender's batch; full-width look-alikes become special tokens by normalisation."""
    source, (candidate,) = ranker.encode(f"Why {text} not?", [f"So {text} it is"])
    tokenizer = ranker.tokenizer
    for ids, prefix in ((source.ids, tokenizer.source_prefix_id), (candidate.ids, tokenizer.cand_prefix_id)):
        assert (ids[0], ids[1], ids[-1]) == (tokenizer.cls_token_id, prefix, tokenizer.sep_token_id)
        assert not set(ids[2:-1]) & ranker._forbidden_ids
        assert len(ids) > 4


def test_characters_are_normalised_as_in_transformers_4(ranker: PairRanker) -> None:
    """NFKC: the ligature U+FB01 and full-width letters are read as plain ones; transformers 5 makes [UNK] of them."""
    plain, (candidate,) = ranker.encode("find the light", ["light"])
    fancy, (full_width,) = ranker.encode("\ufb01nd the light", ["\uff4c\uff49\uff47\uff48\uff54"])
    assert (fancy, full_width) == (plain, candidate)


def test_tokenizer_json_is_read_as_it_is(checkpoint: Path, ranker: PairRanker, tmp_path: Path) -> None:
    settings = json.loads((checkpoint / "config.json").read_text())
    (tmp_path / "config.json").write_text((Path(settings["model_name"]) / "config.json").read_text())
    from raypref.oracles.support.pairrm_model import _tokenizer

    _tokenizer(Path(settings["model_name"])).backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    again = load_ranker(str(checkpoint), str(tmp_path), "cpu")
    text = ("\ufb01nd the light", ["\uff4c\uff49\uff47\uff48\uff54 at noon"])
    assert again.encode(*text) == ranker.encode(*text)


def test_weights_stay_in_float32(ranker: PairRanker) -> None:
    assert {parameter.dtype for parameter in ranker.model.parameters()} == {torch.float32}


def test_a_directory_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"oracle\.path: .* has no config\.json and model\.safetensors"):
        PairRM(path=str(tmp_path)).load(NoServices())


def test_another_kind_of_ranker_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    settings = json.loads((checkpoint / "config.json").read_text()) | {"ranker_type": "summareranker"}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match="ranker_type is 'summareranker'"):
        PairRM(path=str(tmp_path)).load(NoServices())


def test_a_tokenizer_of_another_size_is_refused(checkpoint: Path, ranker: PairRanker, tmp_path: Path) -> None:
    base = Path(json.loads((checkpoint / "config.json").read_text())["model_name"])
    (tmp_path / "config.json").write_text((base / "config.json").read_text())
    smaller = load_ranker(str(checkpoint), None, "cpu").tokenizer
    smaller.add_tokens(["another"])
    smaller.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ConfigError, match="tokens, the checkpoint"):
        PairRM(path=str(checkpoint), base=str(tmp_path)).load(NoServices())


def test_a_repository_that_cannot_be_reached_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigError, match=r"oracle\.path: 'no-owner/no-model'"):
        PairRM(path="no-owner/no-model").load(NoServices())


def test_tensor_float_32_on_a_gpu_alone() -> None:
    """Full precision is torch's default, and what a CPU keeps; a GPU has it back after the block, which may fail."""
    assert torch.get_float32_matmul_precision() == "highest"
    with tensor_float_32("cpu"):
        assert torch.get_float32_matmul_precision() == "highest"
    with tensor_float_32("cuda"):
        assert torch.get_float32_matmul_precision() == "high"
    with pytest.raises(KeyError), tensor_float_32("cuda"):
        raise KeyError
    assert torch.get_float32_matmul_precision() == "highest"
