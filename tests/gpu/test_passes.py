"""Forward and backward passes on each device: packed rows, the head and the token-wise KL, against plain passes in higher precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from actors.policy_model import load_model
from raypref.sections import PolicyConfig
from raypref.training import fused, head, logprobs, packing
from raypref.training.head import head_logps
from raypref.training.logprobs import response_logps
from raypref.training.packing import Packing, packing_of
from raypref.training.token_kl import head_kl
from raypref.types import TokenSequence
from tests.gpu.devices import DEVICES, GPU
from tests.tiny_models import make_model

Passed = tuple[Tensor, Tensor]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_model(tmp_path_factory.mktemp("model"), tied=True))


def group() -> list[TokenSequence]:
    """Nine responses to three prompts."""
    rng = np.random.default_rng(0)
    prompts = [rng.integers(3, 64, count).astype(np.int32) for count in (20, 7, 12)]
    return [TokenSequence(prompts[k % 3], rng.integers(3, 64, 3 + k).astype(np.int32)) for k in range(9)]


def load(path: str, device: str, dtype: Any, attention: Any = "sdpa") -> Any:
    return load_model(PolicyConfig(path=path, dtype=dtype, attention=attention), torch.device(device), trainable=True)


def passed(model: Any) -> Passed:
    """The log-probs, and the gradient of their sum with respect to the embedding."""
    logps, mask = response_logps(model, group())
    logps.sum().backward()
    return logps[mask].detach().float().cpu(), model.get_input_embeddings().weight.grad.float().cpu()


@pytest.fixture(scope="module")
def exact(path: str) -> Passed:
    """One sequence per row, in float32 on a CPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logprobs, "packing_of", lambda model: Packing("padded"))
        return passed(load(path, "cpu", "float32"))


def distances(found: Passed, expected: Passed) -> list[float]:
    """Of the log-probs and of the gradient, each relative to the norm of what is expected."""
    return [float((a - b).norm() / b.norm()) for a, b in zip(found, expected, strict=True)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("liger", [False, pytest.param(True, id="liger")])
def test_shared_rows_in_float32(path: str, exact: Passed, device: str, liger: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Largest differences relative to the largest value. Measured on an H200: 1.2e-6 for log-probs, 1.3e-5 for gradients."""
    if liger and not fused.available(torch.device(device)):
        pytest.skip("Liger's kernels need a GPU, and the extra `liger`")
    monkeypatch.setattr(fused, "available", lambda device: liger)
    model = load(path, device, "float32")
    assert packing_of(model).kind == "prefix_sharing"
    for found, expected, bound in zip(passed(model), exact, (1e-5, 1e-4), strict=True):
        assert float((found - expected).abs().max()) < bound * float(expected.abs().max())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("attention", "kind"), [("sdpa", "prefix_sharing"), ("flash_attention_2", "varlen")])
def test_packed_rows_in_bfloat16(path: str, exact: Passed, device: str, attention: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """bfloat16 is far from float32 however the rows are laid out (on a CPU the norm of the gradient's error is 0.14 of the gradient's).
    Packed rows must not be further away than one sequence per row, on the same device. Liger's kernels take part where they are installed.
    """
    if attention == "flash_attention_2":
        if device == "cpu":
            pytest.skip("flash attention needs a GPU")
        pytest.importorskip("flash_attn")
    model = load(path, device, "bfloat16", attention)
    assert packing_of(model).kind == kind
    packed = distances(passed(model), exact)
    monkeypatch.setattr(logprobs, "packing_of", lambda model: Packing("padded"))
    padded = distances(passed(load(path, device, "bfloat16")), exact)
    for of_packed, of_padded in zip(packed, padded, strict=True):
        assert of_packed < 1.5 * of_padded + 1e-3
    assert max(packed) < 0.3


@pytest.mark.parametrize("device", [GPU])
def test_a_model_on_a_cpu_beside_one_on_a_gpu(path: str, exact: Passed, device: str) -> None:
    """Liger's kernels cannot read a CPU's memory; the model on the GPU goes on using them."""
    if not fused.available(torch.device(device)):
        pytest.skip("the extra `liger` is not installed")
    on_gpu = load(path, device, "float32")
    for found, expected in zip(passed(load(path, "cpu", "float32")), exact, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))
    assert on_gpu.model.norm._get_name() == "LigerRMSNorm"
    assert max(distances(passed(on_gpu), exact)) < 1e-4


def test_the_rows_of_a_gpu(path: str) -> None:
    """A mask costs a GPU more than none; there is no difference on a CPU."""
    assert packing_of(load(path, "cpu", "float32")).causal_break_even_tokens is None
    if torch.cuda.is_available():
        found = packing_of(load(path, "cuda:0", "float32"))
        assert found == Packing("prefix_sharing", packing.CUDA_MASKED * 64, packing.CUDA_CAUSAL * 64)


def random_inputs(device: str, dtype: torch.dtype, rows: int, hidden: int, vocabulary: int) -> list[Tensor]:
    """Input, weight and bias of a head."""
    torch.manual_seed(0)
    values = torch.randn(rows, hidden), torch.randn(vocabulary, hidden) / hidden**0.5, torch.randn(vocabulary)
    return [value.to(device, dtype).requires_grad_() for value in values]


def doubled(values: list[Tensor]) -> list[Tensor]:
    return [value.detach().double().cpu().requires_grad_() for value in values]


def check_gradients(found: list[Tensor], expected: list[Tensor], bound: float) -> None:
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.double().cpu(), b, rtol=0, atol=bound * float(b.abs().max()))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("elements", [3000, 1 << 28])
def test_head(device: str, dtype: torch.dtype, bound: float, elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """300 rows of a vocabulary of 1000, three at a time and all at once, against float64 from the same values; relative to the largest."""
    monkeypatch.setitem(head.CHUNK_ELEMENTS, torch.device(device).type, elements)
    inputs = random_inputs(device, dtype, 300, 64, 1000)
    double = doubled(inputs)
    tokens, weights = torch.randint(0, 1000, (300,)), torch.randn(300)
    found = head_logps(*inputs, tokens.to(device))
    expected = (double[0] @ double[1].T + double[2]).log_softmax(-1).gather(-1, tokens[:, None]).squeeze(-1)
    torch.testing.assert_close(found.double().cpu(), expected, rtol=0, atol=bound)
    gradients = torch.autograd.grad(found @ weights.to(device), inputs)
    check_gradients(list(gradients), list(torch.autograd.grad(expected @ weights.double(), double)), bound)


@pytest.mark.parametrize("device", DEVICES)
def test_gradients_of_bfloat16_weights_are_summed_in_float32(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """600 rows in chunks of one, each adding p = 1/2 to the gradient of a weight: 300, where a sum in bfloat16 stops at 128."""
    monkeypatch.setitem(head.CHUNK_ELEMENTS, torch.device(device).type, 1)
    weight = torch.zeros(2, 1, dtype=torch.bfloat16, device=device, requires_grad=True)
    tokens = torch.zeros(600, dtype=torch.long, device=device)
    head_logps(torch.ones(600, 1, dtype=torch.bfloat16, device=device), weight, None, tokens).sum().backward()
    assert weight.grad is not None
    assert weight.grad.flatten().tolist() == [300.0, -300.0]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("elements", [3000, 1 << 28])
def test_token_kl(device: str, elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Divergences, log-probs and gradients of a sum over both, against float64."""
    monkeypatch.setitem(head.CHUNK_ELEMENTS, torch.device(device).type, elements)
    inputs, frozen = random_inputs(device, torch.float32, 200, 32, 1000), random_inputs(device, torch.float32, 200, 32, 1000)
    heads = [nn.Linear(32, 1000, device=device) for _ in range(2)]
    for linear, (_, weight, bias) in zip(heads, (inputs, frozen), strict=True):
        linear.weight.data, linear.bias.data = weight.data, bias.data
    heads[1].weight.data = heads[1].weight.data.flip(0)
    tokens = torch.randint(0, 1000, (200,))
    parameters = [inputs[0], heads[0].weight, heads[0].bias]
    found = head_kl(inputs[0], heads[0], tokens.to(device), frozen[0], heads[1])
    double = doubled(parameters)
    log_p = (double[0] @ double[1].T + double[2]).log_softmax(-1)
    other = doubled([frozen[0], heads[1].weight, heads[1].bias])
    log_q = (other[0] @ other[1].T + other[2]).log_softmax(-1).detach()
    expected = torch.stack([(log_p.exp() * (log_p - log_q)).sum(-1), log_p.gather(-1, tokens[:, None]).squeeze(-1)])
    torch.testing.assert_close(found.double().cpu(), expected, rtol=0, atol=2e-5)
    gradients = torch.autograd.grad(found.square().sum(), parameters)
    check_gradients(list(gradients), list(torch.autograd.grad(expected.square().sum(), double)), 2e-5)
