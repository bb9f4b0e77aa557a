"""Log-probs of a head against the whole matrix of logits in float64, and what is never held in memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from raypref.training import head
from raypref.training.head import head_logps


def random_inputs(rows: int, hidden_size: int, vocabulary: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    torch.manual_seed(0)
    hidden, weight, bias = torch.randn(rows, hidden_size), torch.randn(vocabulary, hidden_size), torch.randn(vocabulary)
    return [values.to(dtype).requires_grad_() for values in (hidden, weight, bias)]


def plain(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    return (hidden @ weight.T + bias).log_softmax(-1).gather(-1, tokens[:, None]).squeeze(-1)


@pytest.mark.parametrize("elements", [1, 120, 1 << 25])
def test_chunks_equal_the_whole_softmax(monkeypatch: pytest.MonkeyPatch, elements: int) -> None:
    """One row at a time, two rows, all at once; value and all three gradients against float64, twice through the same graph."""
    monkeypatch.setitem(head.CHUNK_ELEMENTS, "cpu", elements)
    own = random_inputs(7, 5, 60)
    exact = [values.detach().double().requires_grad_() for values in own]
    tokens, weights = torch.randint(0, 60, (7,)), torch.randn(7)
    found, expected = head_logps(*own, tokens), plain(*exact, tokens)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    gradients = torch.autograd.grad(expected @ weights.double(), exact)
    for _ in range(2):
        for a, b in zip(torch.autograd.grad(found @ weights, own, retain_graph=True), gradients, strict=True):
            torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-5)


def test_by_hand() -> None:
    """One feature, weights (log 3, 0): p = (3/4, 1/4). d log p_0 / dW = ((1 - 3/4) h, -1/4 h), d / dh = 1/4 log 3."""
    hidden = torch.ones(1, 1, requires_grad=True)
    weight = torch.tensor([[3.0], [1.0]]).log().requires_grad_()
    found = head_logps(hidden, weight, None, torch.tensor([0]))
    assert found.item() == pytest.approx(-0.2876821)
    found.sum().backward()
    assert weight.grad is not None
    assert hidden.grad is not None
    assert weight.grad.flatten().tolist() == pytest.approx([0.25, -0.25])
    assert hidden.grad.item() == pytest.approx(0.25 * 1.0986123)


def test_a_frozen_head_gets_no_gradient() -> None:
    hidden, weight, _ = random_inputs(3, 4, 6)
    head_logps(hidden, weight.detach(), None, torch.tensor([1, 2, 3])).sum().backward()
    assert hidden.grad is not None
    assert weight.grad is None


def test_no_tokens() -> None:
    """A response may be empty: no log-probs, and zero gradients, so that every rank has its backward pass."""
    hidden, weight, bias = random_inputs(0, 4, 6)
    found = head_logps(hidden, weight, bias, torch.zeros(0, dtype=torch.long))
    found.sum().backward()
    assert found.shape == (0,)
    assert weight.grad is not None
    assert not weight.grad.any()


def test_bfloat16_is_reduced_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits (10, 10 + 1/16) are exact in bfloat16: lp = -log(1 + e^(1/16)) = -0.7248853; a bfloat16 softmax would give -0.7266.

    Over 600 rows in chunks of one, each adding p = 1/2 to the gradient of a weight: 300, where a sum in bfloat16 stops at 128."""
    weight = torch.tensor([[10.0], [10.0625]], dtype=torch.bfloat16)
    found = head_logps(torch.ones(1, 1, dtype=torch.bfloat16), weight, None, torch.tensor([0]))
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(-0.7248853, abs=1e-6)
    monkeypatch.setitem(head.CHUNK_ELEMENTS, "cpu", 1)
    even = torch.zeros(2, 1, dtype=torch.bfloat16, requires_grad=True)
    head_logps(torch.ones(600, 1, dtype=torch.bfloat16), even, None, torch.zeros(600, dtype=torch.long)).sum().backward()
    assert even.grad is not None
    assert even.grad.dtype == torch.bfloat16
    assert even.grad.flatten().tolist() == [300.0, -300.0]


class Largest(TorchDispatchMode):
    """The most elements of any tensor that an operation returned."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.elements = max(self.elements, result.numel())
        return result


def test_the_matrix_of_logits_never_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    """100 rows of 40 logits in chunks of 5 rows: no operation of either pass returns more than 5 x 40 elements, or than the weight has."""
    monkeypatch.setitem(head.CHUNK_ELEMENTS, "cpu", 200)
    own = random_inputs(100, 2, 40)
    with Largest() as found:
        head_logps(*own, torch.zeros(100, dtype=torch.long)).sum().backward()
    assert found.elements == 200
