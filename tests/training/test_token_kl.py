"""The token-wise KL divergence against the same sum written plainly, and its gradient."""

from __future__ import annotations

import math

import pytest
import torch

from raypref.training import head
from raypref.training.token_kl import token_kl


def plain(logits: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    p, q = logits.log_softmax(-1), reference.log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1)


def test_two_tokens_by_hand() -> None:
    """p = (3/4, 1/4), q = (1/2, 1/2): 3/4 log(3/2) + 1/4 log(1/2); dKL/dz_s = p_s (log(p_s / q_s) - KL)."""
    logits = torch.tensor([[math.log(3.0), 0.0]], requires_grad=True)
    found = token_kl(logits, torch.zeros(1, 2))
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert found.item() == pytest.approx(expected, rel=1e-6)
    found.sum().backward()
    gradient = [0.75 * (math.log(1.5) - expected), 0.25 * (math.log(0.5) - expected)]
    assert logits.grad is not None
    assert logits.grad[0].tolist() == pytest.approx(gradient, rel=1e-5)


@pytest.mark.parametrize("elements", [1, 200, 1 << 24])
def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch, elements: int) -> None:
    """One row at a time, a few rows, all at once; against float64."""
    monkeypatch.setitem(head.CHUNK_ELEMENTS, "cpu", elements)
    torch.manual_seed(0)
    logits, reference, weights = torch.randn(15, 60) * 3, torch.randn(15, 60) * 3, torch.randn(15)
    own, exact = logits.clone().requires_grad_(), logits.double().requires_grad_()
    found, expected = token_kl(own, reference.requires_grad_()), plain(exact, reference.detach().double())
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
    (found * weights).sum().backward()
    (expected * weights.double()).sum().backward()
    assert own.grad is not None
    assert exact.grad is not None
    torch.testing.assert_close(own.grad.double(), exact.grad, rtol=1e-4, atol=1e-6)
    assert reference.grad is None, "the frozen policy has no gradient"


def test_equal_policies_and_half_precision() -> None:
    """KL of a policy to itself is 0 and so is its gradient; bfloat16 logits are summed in float32."""
    logits = torch.randn(6, 50, dtype=torch.bfloat16, requires_grad=True)
    found = token_kl(logits, logits.detach().clone())
    assert found.dtype == torch.float32
    found.sum().backward()
    assert logits.grad is not None
    assert found.abs().max() < 1e-6
    assert logits.grad.abs().max() == 0.0
