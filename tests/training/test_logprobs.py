from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import raypref.training.head
import raypref.training.logprobs
from raypref.training.head import head_logps
from raypref.training.logprobs import pad_rows, response_kl, response_logps, response_predictions, token_logps
from raypref.types import TokenSequence

VOCABULARY = 32


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, initializer_range=0.3
    )
    return LlamaForCausalLM(config)


def random_sequences(*lengths: tuple[int, int]) -> list[TokenSequence]:
    rng = np.random.default_rng(0)
    return [
        TokenSequence(rng.integers(0, VOCABULARY, p).astype(np.int32), rng.integers(0, VOCABULARY, r).astype(np.int32)) for p, r in lengths
    ]


LENGTHS = ((3, 7), (12, 2), (1, 1), (5, 4), (2, 0))


def test_equals_the_whole_softmax(model: LlamaForCausalLM) -> None:
    """Against log softmax over a plain forward pass of each unpadded sequence, gathered at the response tokens."""
    items = random_sequences(*LENGTHS)
    logps, mask = response_logps(model, items)
    assert logps.shape == mask.shape == (5, 7)
    assert logps.dtype == torch.float32
    assert logps[~mask].tolist() == [0.0] * int((~mask).sum())
    for item, row, present in zip(items, logps, mask, strict=True):
        tokens = torch.tensor(np.concatenate([item.prompt_ids, item.response_ids]), dtype=torch.long)
        whole = model(tokens[None]).logits[0].double().log_softmax(-1)
        start = len(item.prompt_ids)
        expected = whole[start - 1 : -1].gather(-1, tokens[start:, None]).squeeze(-1)
        torch.testing.assert_close(row[present].double(), expected, atol=1e-5, rtol=0)


def test_padding_changes_nothing_in_value_or_gradient(model: LlamaForCausalLM) -> None:
    """One batch of all against one sequence at a time, weighted by length so that no gradient cancels."""
    items = random_sequences(*LENGTHS)

    def gradients(batches: list[list[TokenSequence]]) -> list[torch.Tensor]:
        model.zero_grad()
        for batch in batches:
            logps, mask = response_logps(model, batch)
            (logps.sum(-1) * mask.sum(-1)).sum().backward()
        return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]

    together = gradients([items])
    apart = gradients([[item] for item in items])
    for a, b in zip(together, apart, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5 * float(b.abs().max()), rtol=0)


def test_only_response_positions_reach_the_head(model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """4 and 6 response tokens: ten rows, no padding among them."""
    seen = []

    def spy(hidden: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(hidden.shape))
        return head_logps(hidden, *others)

    monkeypatch.setattr(raypref.training.logprobs, "head_logps", spy)
    response_logps(model, random_sequences((30, 4), (12, 6)))
    assert seen == [(10, 32)]


def other_model(**settings: Any) -> LlamaForCausalLM:
    """A frozen policy of another width."""
    torch.manual_seed(1)
    shape = {"vocab_size": VOCABULARY, "hidden_size": 48, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 3}
    return LlamaForCausalLM(LlamaConfig(**shape, **settings)).eval()


def kl_and_gradients(model: Any, reference: Any, items: list[TokenSequence]) -> list[torch.Tensor]:
    """Divergences and log-probs of all tokens, and the gradient of a sum over both in which nothing cancels."""
    model.zero_grad()
    with torch.no_grad():
        frozen = response_predictions(reference, items)
    divergence, logps = response_kl(model, frozen, items)
    (divergence.sum() + 0.3 * logps.square().sum()).backward()
    return [divergence.detach(), logps.detach(), *(parameter.grad for parameter in model.parameters())]


def test_divergence_in_chunks_is_that_of_whole_distributions(model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of three tokens; against all logits, in torch's own float64 for the value."""
    items = random_sequences(*LENGTHS)
    reference = other_model()
    monkeypatch.setitem(raypref.training.head.CHUNK_ELEMENTS, "cpu", 3 * VOCABULARY)
    found = kl_and_gradients(model, reference, items)
    monkeypatch.setattr(raypref.training.logprobs, "supports_packing", lambda model: False)
    whole = kl_and_gradients(model, reference, items)
    for a, b in zip(found, whole, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5 * max(1.0, float(b.abs().max())), rtol=0)
    with torch.no_grad():
        p, q = (response_predictions(one, items).logits.double().log_softmax(-1) for one in (model, reference))
        expected = pad_rows((p.exp() * (p - q)).sum(-1), [len(item.response_ids) for item in items])[0]
        torch.testing.assert_close(found[0].double(), expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(found[1], response_logps(model, items)[0], atol=1e-5, rtol=0)


def test_divergence_from_a_policy_with_the_same_head(model: LlamaForCausalLM) -> None:
    """A policy diverges from itself by nothing, and no gradient comes by way of the frozen side: the log-probs' alone is left."""
    items = random_sequences(*LENGTHS)
    divergence, _, *found = kl_and_gradients(model, model, items)
    assert float(divergence.abs().max()) < 1e-6
    model.zero_grad()
    (0.3 * response_logps(model, items)[0].square().sum()).backward()
    for gradient, parameter in zip(found, model.parameters(), strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(gradient, parameter.grad, atol=1e-5 * float(parameter.grad.abs().max()), rtol=0)


def test_gradient_by_finite_differences() -> None:
    """In chunks of two rows: d lp / d logits against torch's own log softmax, and by finite differences in float32's precision."""
    torch.manual_seed(0)
    logits = torch.randn(6, 5, requires_grad=True)
    tokens = torch.randint(0, 5, (6,))
    weight = torch.randn(6)
    (token_logps(logits, tokens) * weight).sum().backward()
    found, logits.grad = logits.grad, None
    (logits.log_softmax(-1).gather(-1, tokens[:, None]).squeeze(-1) * weight).sum().backward()
    torch.testing.assert_close(found, logits.grad)
    step = 1e-2
    moved = logits.detach().clone()
    moved[1, 2] += step
    up = (token_logps(moved, tokens) * weight).sum()
    moved[1, 2] -= 2 * step
    down = (token_logps(moved, tokens) * weight).sum()
    assert found is not None
    assert float(found[1, 2]) == pytest.approx(float(up - down) / (2 * step), abs=1e-3)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """7 rows of 5 in chunks of 2 rows."""
    torch.manual_seed(0)
    tokens = torch.randint(0, 5, (7,))

    def value_and_gradient() -> tuple[torch.Tensor, torch.Tensor | None]:
        logits = torch.linspace(-3, 3, 35).view(7, 5).requires_grad_()
        logps = token_logps(logits, tokens)
        logps.square().sum().backward()
        return logps.detach(), logits.grad

    whole = value_and_gradient()
    monkeypatch.setitem(raypref.training.head.CHUNK_ELEMENTS, "cpu", 10)
    torch.testing.assert_close(value_and_gradient(), whole, rtol=0, atol=0)


def test_bfloat16_logits_are_reduced_in_float32() -> None:
    """Logits (10, 10 + 1/16) are exact in bfloat16: lp = -log(1 + e^(1/16)) = -0.7248853; a bfloat16 softmax would give -0.7266."""
    logits = torch.tensor([[10.0, 10.0625]], dtype=torch.bfloat16, requires_grad=True)
    logps = token_logps(logits, torch.tensor([0]))
    assert logps.item() == pytest.approx(-0.7248853, abs=1e-6)
    logps.sum().backward()
    assert logits.grad is not None
    assert logits.grad.dtype == torch.bfloat16


def test_gradient_free_under_no_grad(model: LlamaForCausalLM) -> None:
    with torch.no_grad():
        assert not response_logps(model, random_sequences((3, 2)))[0].requires_grad


@pytest.mark.parametrize(("items", "message"), [([], "no sequences"), (random_sequences((0, 2)), "empty prompt")])
def test_what_cannot_be_scored_is_refused(model: LlamaForCausalLM, items: list[TokenSequence], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        response_logps(model, items)
