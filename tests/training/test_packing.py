"""Rows by hand, and the same log-probs and gradients whatever the rows are."""

from __future__ import annotations

from typing import Any

import numpy as np
import peft
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AutoConfig, AutoModelForCausalLM, LlamaForCausalLM, modeling_flash_attention_utils

import raypref.training.head
from raypref.training.logprobs import response_logps
from raypref.training.packing import _VERIFIED, Packing, Row, model_inputs, packing_of, prefix_sharing_mask, rows_of, supports_packing
from raypref.types import TokenSequence

VOCABULARY = 32


def tokens(*ids: int) -> np.ndarray:
    return np.array(ids, dtype=np.int32)


P, Q = tokens(1, 2, 3), tokens(4)
A, B, C = tokens(5, 6), tokens(7, 8, 9), tokens(10)
GROUP = [TokenSequence(P, A), TokenSequence(Q, C), TokenSequence(P, B), TokenSequence(P, A)]


def lengths(rows: list[Row]) -> list[tuple[int, list[int]]]:
    return [(len(row.prompt_ids), [len(response) for response in row.response_ids]) for row in rows]


def test_prefix_sharing_by_hand() -> None:
    """P with B and A is 3 + 2 + 1 positions, since their last tokens predict nothing. A's token has position 3, as B's first token does,
    and attends to P (0 to 2) and itself, not to B. Q with C is the one position of Q. A's tokens are predicted at the end of P and at A's
    first token; the second A is the same sequence.
    """
    found = model_inputs(GROUP, Packing("prefix_sharing", 1000))
    assert found.input_ids.tolist() == [[1, 2, 3, 7, 8, 5], [4, 0, 0, 0, 0, 0]]
    assert found.position_ids is not None
    assert found.position_ids.tolist() == [[0, 1, 2, 3, 4, 3], [0, 0, 0, 0, 0, 0]]
    assert found.segment_ids is not None
    mask = prefix_sharing_mask(found.segment_ids)
    assert mask[0, 0, 4].int().tolist() == [1, 1, 1, 1, 1, 0]
    assert mask[0, 0, 5].int().tolist() == [1, 1, 1, 0, 0, 1]
    assert mask.any(-1).all(), "a softmax over nothing would be NaN"
    assert found.logit_indices.tolist() == [2, 5, 6, 2, 3, 4, 2, 5]
    assert found.tokens.tolist() == [5, 6, 10, 7, 8, 9, 5, 6]
    assert found.lengths == (2, 1, 3, 2)


def test_padded_and_varlen_rows_by_hand() -> None:
    """Longest response first: P B, P A, Q C."""
    padded = model_inputs(GROUP, Packing("padded"))
    assert padded.input_ids.tolist() == [[1, 2, 3, 7, 8], [1, 2, 3, 5, 0], [4, 0, 0, 0, 0]]
    assert (padded.position_ids, padded.segment_ids) == (None, None)
    assert padded.logit_indices.tolist() == [7, 8, 10, 2, 3, 4, 7, 8]
    varlen = model_inputs(GROUP, Packing("varlen"))
    assert varlen.input_ids.tolist() == [[1, 2, 3, 7, 8, 1, 2, 3, 5, 4]]
    assert varlen.position_ids is not None
    assert varlen.position_ids.tolist() == [[0, 1, 2, 3, 4, 0, 1, 2, 3, 0]]
    assert varlen.segment_ids is None
    assert varlen.logit_indices.tolist() == [7, 8, 9, 2, 3, 4, 7, 8]
    assert (padded.cu_seqlens, varlen.cu_seqlens) == (None, (0, 5, 9, 10))


def test_the_prompt_is_shared_where_that_costs_less() -> None:
    """Four responses of 100 tokens (99 positions), reach 384. A prompt of 10: apart 4 (109 + 109^2 / 384) = 560, two and two
    2 (208 + 208^2 / 384) = 641, all 406 + 406^2 / 384 = 835. Of 100: 1208, 1059, 1137. Of 400: 4590, 3059, 2446. At reach 10,000 even
    10 tokens are worth sharing: 441, 425, 422."""

    def found(prompt: int, reach: float) -> list[int]:
        group = [TokenSequence(np.zeros(prompt, dtype=np.int32), np.full(100, k, dtype=np.int32)) for k in range(4)]
        return [len(row.response_ids) for row in rows_of(group, Packing("prefix_sharing", reach))]

    assert found(10, 384) == [1, 1, 1, 1]
    assert found(100, 384) == [2, 2]
    assert found(400, 384) == [4]
    assert found(10, 10_000) == [4]


def test_rows_cost_what_the_longest_does() -> None:
    """Prompt 100, responses of 1200, 1000, 150, reach 3351. Apart they are rows of 1299, 1099, 249, each computed at 1299:
    3 (1299 + 1299^2 / 3351) = 5408, though 3529 without the padding. Two rows, 1299 and 100 + 999 + 149 = 1248: 3605. One: 2447 + 1787 =
    4234. Three responses of 800 (899 apart): 3420; two rows are as long as their pair, 1698: 5117; one of 2497: 4358."""

    def found(*responses: int) -> list[list[int]]:
        group = [TokenSequence(np.zeros(100, dtype=np.int32), np.full(length, k, dtype=np.int32)) for k, length in enumerate(responses)]
        return [[len(response) for response in row.response_ids] for row in rows_of(group, Packing("prefix_sharing", 3351))]

    assert found(150, 1000, 1200) == [[1200], [1000, 150]]
    assert found(800, 800, 800) == [[800], [800], [800]]


def test_rows_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """H = 4096: with a mask a row costs L + L^2 / 12,288, without L + L^2 / 24,576. Four responses of 513 tokens (512 positions), prompts
    of 50, 100, 200: apart 4 x 562 (1 + 562 / 24,576) = 2299, 2509, 2930; two and two 2 x 1074 (1 + 1074 / 12,288) = 2336, 2454, 2692; all
    2456, 2524, 2659. Four responses of 4096 positions to a prompt as long: apart 43,691, two and two 49,152; with masks everywhere apart
    would cost 54,613."""
    model = small("llama")
    monkeypatch.setattr(type(model), "device", torch.device("cuda", 0))
    model.config.hidden_size = 4096
    gpu = packing_of(model)
    assert gpu == Packing("prefix_sharing", 12_288.0, 24_576.0)
    model.set_attn_implementation("eager")
    assert packing_of(model) == Packing("prefix_sharing", 24 * 4096**2 / (4 * 4096 + 96 * 2)), "eager attention always has a mask"

    def found(prompt: int, response: int, packing: Packing) -> list[int]:
        group = [TokenSequence(np.zeros(prompt, dtype=np.int32), np.full(response, k, dtype=np.int32)) for k in range(4)]
        return [len(row.response_ids) for row in rows_of(group, packing)]

    assert [found(prompt, 513, gpu) for prompt in (50, 100, 200)] == [[1, 1, 1, 1], [2, 2], [4]]
    assert found(4096, 4097, gpu) == [1, 1, 1, 1]
    assert found(4096, 4097, Packing("prefix_sharing", 12_288.0)) == [2, 2]


def small(kind: str, **settings: Any) -> Any:
    torch.manual_seed(0)
    shape = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"pad_token_id": None, "bos_token_id": 1, "eos_token_id": 2}
    config = AutoConfig.for_model(kind, **shape, **ends, num_key_value_heads=1, head_dim=16, initializer_range=0.3, **settings)
    return AutoModelForCausalLM.from_config(config).train()


def random_group() -> list[TokenSequence]:
    rng = np.random.default_rng(0)

    def draw(count: int) -> np.ndarray:
        return rng.integers(3, VOCABULARY, count).astype(np.int32)

    first, second = draw(15), draw(9)
    found = [TokenSequence(first, draw(count)) for count in (4, 1, 0, 7)] + [TokenSequence(second, draw(count)) for count in (3, 6)]
    return [*found, found[0], TokenSequence(draw(2), draw(11))]


def passes(model: Any, batches: list[list[TokenSequence]]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """The sequences' log-probs, and the gradient of their sums weighted by length, so that nothing cancels."""
    model.zero_grad()
    rows = []
    for batch in batches:
        logps, mask = response_logps(model, batch)
        (logps.sum(-1) * mask.sum(-1)).sum().backward()
        rows += [row[present].detach() for row, present in zip(logps, mask, strict=True)]
    return rows, [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


def agree(found: Any, expected: Any) -> None:
    for a, b in zip(found[0], expected[0], strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=0)
    for a, b in zip(found[1], expected[1], strict=True):
        torch.testing.assert_close(a, b, atol=1e-5 * float(b.abs().max()), rtol=0)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", sorted(_VERIFIED))
def test_shared_prompts_change_nothing_in_value_or_gradient(kind: str, attention: str) -> None:
    """For every model with prefix sharing: all sequences together, against one pass per sequence."""
    model = small(kind, sliding_window=None)
    model.set_attn_implementation(attention)
    packing = packing_of(model)
    assert packing == Packing("prefix_sharing", 24 * 32**2 / (4 * 32 + 96 * 2))
    assert max(len(row.response_ids) for row in rows_of(random_group(), packing)) > 1, "nothing was shared"
    agree(passes(model, [random_group()]), passes(model, [[item] for item in random_group()]))


def varlen(query: Any, key: Any, value: Any, *, cu_seqlens_q: Any, max_seqlen_q: int, softmax_scale: float, **others: Any) -> torch.Tensor:
    """In the place of flash attention's kernel: (T, heads, width), each stretch by itself."""
    assert (cu_seqlens_q.dtype, type(max_seqlen_q)) == (torch.int32, int)
    assert others["cu_seqlens_k"] is cu_seqlens_q
    assert max_seqlen_q == others["max_seqlen_k"] == int(cu_seqlens_q.diff().max())
    parts = [[part.movedim(0, 1) for part in whole.split(cu_seqlens_q.diff().tolist())] for whole in (query, key, value)]
    found = [scaled_dot_product_attention(*own, is_causal=True, scale=softmax_scale, enable_gqa=True) for own in zip(*parts, strict=True)]
    return torch.cat(found, dim=1).movedim(0, 1)


@pytest.mark.parametrize("kind", sorted(_VERIFIED))
def test_varlen_packing_changes_nothing_in_value_or_gradient(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through transformers' own flash attention, which is told where each sequence begins: to find out it would wait for the GPU in every
    layer."""
    expected = passes(small(kind, sliding_window=None), [[item] for item in random_group()])
    model = small(kind, sliding_window=None)
    model.config._attn_implementation = "flash_attention_2"
    assert packing_of(model) == Packing("varlen")

    def settings(softmax_scale: float, **others: Any) -> dict[str, Any]:
        return {"softmax_scale": softmax_scale} | {name: others[name] for name in ("max_seqlen_q", "max_seqlen_k")}

    kernels = (None, varlen, None, None, None), (settings, None)
    monkeypatch.setattr(modeling_flash_attention_utils, "lazy_import_flash_attention", lambda implementation: kernels)
    agree(passes(model, [random_group()]), expected)


def test_models_that_are_not_known_get_padded_rows_and_all_their_logits() -> None:
    """A sliding window would be lost in a mask of ours; Granite divides what its head returns, Gemma 2 bends it."""
    for model in (small("mistral", sliding_window=4), small("granite", logits_scaling=3.0), small("gemma2", sliding_window=4)):
        assert packing_of(model) == Packing("padded")
        agree(passes(model, [random_group()]), passes(model, [[item] for item in random_group()]))
        logps, mask = response_logps(model, random_group()[3:4])
        item = random_group()[3]
        whole = torch.tensor(np.concatenate([item.prompt_ids, item.response_ids]), dtype=torch.long)
        logits = model(whole[None]).logits[0, len(item.prompt_ids) - 1 : -1]
        expected = logits.log_softmax(-1).gather(-1, whole[len(item.prompt_ids) :, None]).squeeze(-1)
        torch.testing.assert_close(logps[0][mask[0]], expected, atol=2e-5, rtol=0)


def test_a_model_is_known_by_its_class_and_not_by_its_name() -> None:
    """One that brings its own code may call itself a llama; one that peft wraps still is one."""

    class Own(LlamaForCausalLM):
        """As ``trust_remote_code`` makes one: a class of another module."""

    llama = small("llama")
    assert supports_packing(llama)
    assert supports_packing(peft.get_peft_model(llama, peft.LoraConfig(r=1, target_modules=["q_proj"], task_type="CAUSAL_LM")))
    own = Own(llama.config)
    assert own.config.model_type == "llama"
    assert not supports_packing(own)
    assert packing_of(own) == Packing("padded")


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_rotary_frequencies_that_depend_on_the_longest_row(kind: str) -> None:
    """They are refused; those that are only stretched, by a constant, are not."""
    factors = {"factor": 2.0} if kind == "dynamic" else {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8, "factor": 2.0}
    settings = {"rope_type": kind, "rope_theta": 10_000.0, "original_max_position_embeddings": 16} | factors
    assert packing_of(small("llama", rope_parameters=settings)) == Packing("padded")
    fixed = {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 2.0}
    assert packing_of(small("llama", rope_parameters=fixed)).kind == "prefix_sharing"


def test_the_head_is_itself_again_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the pass failed."""
    model = small("llama")
    monkeypatch.setattr(raypref.training.logprobs, "head_logps", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        response_logps(model, random_group())
    assert model(torch.tensor([[1, 2]])).logits.shape == (1, 2, VOCABULARY)
