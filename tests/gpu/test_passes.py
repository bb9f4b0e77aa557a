"""Passes on a GPU: Liger's kernels, joined rows for flash attention, and shared rows, against plain passes in float32 on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from actors.policy_model import load_model
from raypref.sections import PolicyConfig
from raypref.training import fused
from raypref.training.head import _HeadLogps
from raypref.training.logprobs import response_logps
from raypref.training.packing import packing_of
from raypref.types import TokenSequence
from tests.tiny_models import make_model

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]


def group() -> list[TokenSequence]:
    """Nine responses to three prompts."""
    rng = np.random.default_rng(0)
    prompts = [rng.integers(3, 64, count).astype(np.int32) for count in (20, 7, 12)]
    return [TokenSequence(prompts[k % 3], rng.integers(3, 64, 3 + k).astype(np.int32)) for k in range(9)]


def passed(model: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The log-probs, and the gradient of their sum with respect to the embedding."""
    logps, mask = response_logps(model, group())
    logps.sum().backward()
    return logps[mask].detach().float().cpu(), model.get_input_embeddings().weight.grad.float().cpu()


@pytest.mark.parametrize(("attention", "kind"), [("sdpa", "shared"), ("flash_attention_2", "joined")])
def test_packed_rows_equal_a_plain_pass(tmp_path: Path, attention: str, kind: str) -> None:
    """In bfloat16, relative to the largest value. Liger's kernels take part where they are installed."""
    if attention == "flash_attention_2":
        pytest.importorskip("flash_attn")
    make_model(tmp_path, tied=True)
    policy = PolicyConfig(path=str(tmp_path), dtype="bfloat16", attention=attention)
    model = load_model(policy, torch.device("cuda", 0), trainable=True)
    assert packing_of(model).kind == kind
    exact = load_model(PolicyConfig(path=str(tmp_path), dtype="float32"), torch.device("cpu"), trainable=True)
    for found, expected in zip(passed(model), passed(exact), strict=True):
        assert float((found - expected).abs().max()) < 5e-2 * float(expected.abs().max())


def test_ligers_head_equals_ours() -> None:
    pytest.importorskip("liger_kernel")
    torch.manual_seed(0)
    hidden, weight = (torch.randn(*shape, device="cuda").requires_grad_() for shape in ((300, 64), (1000, 64)))
    tokens, weights = torch.randint(0, 1000, (300,), device="cuda"), torch.randn(300, device="cuda")
    own = _HeadLogps.apply(hidden, weight, None, tokens)
    found = fused.fused_head_logps(hidden, weight, None, tokens)
    torch.testing.assert_close(found, own, atol=1e-3, rtol=1e-3)
    pairs = (torch.autograd.grad(logps @ weights, (hidden, weight)) for logps in (found, own))
    for a, b in zip(*pairs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-3 * float(b.abs().max()), rtol=1e-2)
