"""Checks of ``benchmarks.gpu`` that need torch and transformers only. Each returns what it measured, or raises ``Deviation``."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from actors.weights.checksums import checksum
from raypref.oracles.support.pairrm_model import tensor_float_32
from raypref.sections import PolicyConfig
from raypref.training import fused, logprobs
from raypref.training.head import head_logps
from raypref.training.logprobs import response_logps
from raypref.training.packing import Packing
from raypref.training.token_kl import head_kl
from raypref.types import TokenSequence

GIB = 2**30


class Deviation(Exception):
    """A number is further from what is expected than it may be."""


def within(what: str, value: float, bound: float) -> str:
    """``what value``, if the value is at most ``bound``.

    Raises:
        Deviation: it is not.
    """
    if not value <= bound:
        raise Deviation(f"{what} is {value:.2g}; at most {bound:.2g} is expected")
    return f"{what} {value:.1e}"


def largest(found: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest expected value."""
    expected = expected.detach().double().cpu()
    return float((found.detach().double().cpu() - expected).abs().max() / expected.abs().max())


def norm(found: Tensor, expected: Tensor) -> float:
    """The norm of the difference, relative to the norm of what is expected."""
    return float((found - expected).norm() / expected.norm())


def head(device: str) -> str:
    """Log-probs and the three gradients against float64 on a CPU, from the same values; gradients relative to the largest."""
    results = []
    for dtype, bound in ((torch.float32, 2e-5), (torch.bfloat16, 2e-2)):
        torch.manual_seed(0)
        values = torch.randn(300, 256), torch.randn(8000, 256) / 16, torch.randn(8000)
        inputs = [value.to(device, dtype).requires_grad_() for value in values]
        exact = [value.detach().double().cpu().requires_grad_() for value in inputs]
        tokens, weights = torch.randint(0, 8000, (300,)), torch.randn(300)
        hidden, weight, bias = inputs
        found = head_logps(hidden, weight, bias, tokens.to(device))
        expected = (exact[0] @ exact[1].T + exact[2]).log_softmax(-1).gather(-1, tokens[:, None]).squeeze(-1)
        gradients = torch.autograd.grad(found @ weights.to(device), inputs)
        pairs = zip(gradients, torch.autograd.grad(expected @ weights.double(), exact), strict=True)
        name = str(dtype).removeprefix("torch.")
        results.append(within(f"{name}: log-probs", largest(found, expected), bound))
        results.append(within("gradients", max(largest(a, b) for a, b in pairs), bound))
    return ", ".join(results)


def token_kl(device: str) -> str:
    """Divergences and the head's gradients against float64 on a CPU."""
    torch.manual_seed(0)
    linear, frozen = (nn.Linear(128, 8000, device=device) for _ in range(2))
    hidden, reference = (torch.randn(200, 128, device=device) for _ in range(2))
    tokens = torch.randint(0, 8000, (200,))
    found = head_kl(hidden.requires_grad_(), linear, tokens.to(device), reference, frozen)
    parameters = [hidden, linear.weight, linear.bias]
    exact = [value.detach().double().cpu().requires_grad_() for value in parameters]
    log_p = (exact[0] @ exact[1].T + exact[2]).log_softmax(-1)
    log_q = nn.functional.linear(*(value.detach().double().cpu() for value in (reference, frozen.weight, frozen.bias))).log_softmax(-1)
    expected = torch.stack([(log_p.exp() * (log_p - log_q)).sum(-1), log_p.gather(-1, tokens[:, None]).squeeze(-1)])
    pairs = list(
        zip(torch.autograd.grad(found.square().sum(), parameters), torch.autograd.grad(expected.square().sum(), exact), strict=True)
    )
    divergence = within("divergences", largest(found[0], expected[0]), 1e-4)
    return f"{divergence}, {within('gradients', max(largest(a, b) for a, b in pairs), 1e-4)}"


def packing(device: str) -> str:
    """Prefix sharing against one sequence per row on a CPU in float32; in bfloat16 its error against that of one sequence per row on the
    same device; and a model on a CPU beside one that has Liger's kernels."""
    from tests.tiny_models import make_model

    with tempfile.TemporaryDirectory() as folder:
        path = str(make_model(Path(folder), tied=True))
        with _padded():
            exact = _passed(path, "cpu", "float32")
        logps, gradient = _passed(path, device, "float32")
        results = [
            within("float32: log-probs", largest(logps, exact[0]), 1e-5),
            within("gradient", largest(gradient, exact[1]), 1e-4),
        ]
        packed = norm(_passed(path, device, "bfloat16")[1], exact[1])
        with _padded():
            padded = norm(_passed(path, device, "bfloat16")[1], exact[1])
            within("a CPU's log-probs beside it", largest(_passed(path, "cpu", "float32")[0], exact[0]), 1e-6)
    results.append(f"{within('bfloat16: gradient', packed, 1.5 * padded)} ({padded:.1e} with one sequence per row)")
    liger = "with" if fused.available(torch.device(device)) else "without"
    return f"{', '.join(results)}, {liger} Liger's kernels"


def _sequences() -> list[TokenSequence]:
    """Nine responses to three prompts."""
    rng = np.random.default_rng(0)
    prompts = [rng.integers(3, 64, count).astype(np.int32) for count in (20, 7, 12)]
    return [TokenSequence(prompts[k % 3], rng.integers(3, 64, 3 + k).astype(np.int32)) for k in range(9)]


def _passed(path: str, device: str, dtype: Any) -> tuple[Tensor, Tensor]:
    """Log-probs, and the gradient of their sum with respect to the embedding."""
    from actors.policy_model import load_model

    model: Any = load_model(PolicyConfig(path=path, dtype=dtype), torch.device(device), trainable=True)
    logps, mask = response_logps(model, _sequences())
    logps.sum().backward()
    return logps[mask].detach().double().cpu(), model.get_input_embeddings().weight.grad.double().cpu()


@contextmanager
def _padded() -> Iterator[None]:
    """Within the block every sequence has a row to itself."""
    chosen = logprobs.packing_of
    logprobs.packing_of = lambda model: Packing("padded")
    try:
        yield
    finally:
        logprobs.packing_of = chosen


def checksums(device: str) -> str:
    """The checksum of half a GiB (a CPU: 16 MiB) is a CPU's, and how many GiB a second are hashed: one tensor, and tensors of 32 MiB."""
    torch.manual_seed(0)
    elements = (GIB if device != "cpu" else GIB >> 5) // 4
    values = torch.randint(-(2**15), 2**15, (elements,), dtype=torch.int16).view(torch.bfloat16)
    on_device = values.to(device)
    if int(checksum(on_device)) != int(checksum(values)):
        raise Deviation("the device's checksum differs from the CPU's")
    size = 2 * elements / GIB
    whole = size / seconds(device, lambda: checksum(on_device))
    parts = on_device.split(1 << 24)
    split = size / seconds(device, lambda: [checksum(part) for part in parts])
    return f"equal; {whole:.3g} GiB/s, in tensors of 32 MiB {split:.3g}"


def seconds(device: str, compute: Callable[[], object], times: int = 5) -> float:
    """Mean seconds of a call, after one that is not counted."""
    compute()
    _wait(device)
    start = time.perf_counter()
    for _ in range(times):
        compute()
    _wait(device)
    return (time.perf_counter() - start) / times


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize(device)


def matmul_tflops(device: str) -> float:
    """What a product of two 8192 x 8192 matrices in bfloat16 reaches."""
    left, right = (torch.randn(8192, 8192, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * 8192**3 / seconds(device, lambda: left @ right) / 1e12


def head_speed(device: str) -> str:
    """Both passes of 8B's head over 8192 tokens in bfloat16: ours, the plain one, and three products at the rate of a large product."""
    rows, vocabulary, width = 8192, 128_256, 4096
    hidden = torch.randn(rows, width, device=device, dtype=torch.bfloat16).requires_grad_()
    weight = (torch.randn(vocabulary, width, device=device, dtype=torch.bfloat16) * 0.02).requires_grad_()
    tokens = torch.randint(0, vocabulary, (rows,), device=device)

    def plain() -> Tensor:
        return nn.functional.linear(hidden, weight).float().log_softmax(-1).gather(-1, tokens[:, None])

    def measured(compute: Callable[[], Tensor]) -> str:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        duration = seconds(device, lambda: torch.autograd.grad(compute().sum(), (hidden, weight)))
        return f"{1e3 * duration:.0f} ms and {(torch.cuda.max_memory_allocated() - before) / GIB:.1f} GiB"

    ideal = 6e-9 * rows * vocabulary * width / matmul_tflops(device)
    return f"{measured(lambda: head_logps(hidden, weight, None, tokens))}; plain {measured(plain)}; products alone {ideal:.0f} ms"


def encoder_precision(device: str) -> str:
    """An encoder of PairRM's size on 20 inputs of 1024 tokens (a CPU: a small one on 2 of 64), in TensorFloat-32 against float32.

    On a CPU nothing may change. On a GPU the bound is what 10 bits of mantissa do in 24 layers.
    """
    from transformers import DebertaV2Config, DebertaV2Model

    gpu = device != "cpu"
    width, layers, rows, length = (1024, 24, 20, 1024) if gpu else (128, 2, 2, 64)
    shape = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": width // 64, "intermediate_size": 4 * width}
    positions = {"relative_attention": True, "position_buckets": 256, "share_att_key": True, "pos_att_type": ["p2c", "c2p"]}
    config = DebertaV2Config(
        vocab_size=1000, **shape, **positions, norm_rel_ebd="layer_norm", position_biased_input=False, max_relative_positions=-1
    )
    torch.manual_seed(0)
    model: Any = DebertaV2Model(config).to(device).eval()
    ids = torch.randint(5, 1000, (rows, length), device=device)

    def states() -> Tensor:
        return model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state

    with torch.inference_mode():
        exact, exact_s = states(), seconds(device, states, 2)
        with tensor_float_32(device):
            found, found_s = states(), seconds(device, states, 2)
    difference = within("largest difference of a hidden state", float((found - exact).abs().max()), 0.02 if gpu else 0.0)
    return f"{1e3 * exact_s:.0f} ms in float32, {1e3 * found_s:.0f} in TensorFloat-32; {difference} of {float(exact.abs().max()):.2g}"
