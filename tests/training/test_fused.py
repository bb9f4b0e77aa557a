"""Liger's kernels change one model, not the process. Liger is replaced by a stand-in, which patches transformers as Liger does."""

from __future__ import annotations

from types import MethodType
from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama import modeling_llama

from raypref.training import fused


class Kernel(nn.Module):
    """Runs on a GPU only."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        raise ValueError("Pointer argument cannot be accessed from Triton (cpu tensor?)")


def rotary_kernel(q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> Any:
    raise ValueError("Pointer argument cannot be accessed from Triton (cpu tensor?)")


def patch_like_liger(model: Any, settings: dict[str, bool]) -> None:
    """``apply_liger_kernel_to_llama`` of Liger 0.8.5, for the rotary positions and the MLP."""
    assert settings == {"cross_entropy": False, "fused_linear_cross_entropy": False}
    modeling_llama.apply_rotary_pos_emb = rotary_kernel
    modeling_llama.LlamaMLP = Kernel  # type: ignore[misc]
    for layer in model.model.layers:
        layer.mlp.forward = MethodType(Kernel.forward, layer.mlp)


def small() -> LlamaForCausalLM:
    torch.manual_seed(0)
    shape = {"vocab_size": 16, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(**shape, bos_token_id=1, eos_token_id=2))


def test_another_model_of_the_process_is_not_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two models are fused; one that is built afterwards has its layers and its logits. The fused ones have the kernel."""
    ids = torch.tensor([[1, 5, 7]])
    rotary, mlp, expected = modeling_llama.apply_rotary_pos_emb, modeling_llama.LlamaMLP, small()(ids).logits
    monkeypatch.setattr(modeling_llama, "apply_rotary_pos_emb", rotary)  # put back after the test
    monkeypatch.setattr("transformers.integrations.liger.apply_liger_kernel", patch_like_liger)
    models = [small(), small()]
    for model in models:
        fused.fuse_layers(model)
    assert modeling_llama.LlamaMLP is mlp
    assert torch.equal(small()(ids).logits, expected)
    for model in models:
        with pytest.raises(ValueError, match="Triton"):
            model(ids)
    switch: Any = modeling_llama.apply_rotary_pos_emb
    assert (switch._otherwise, switch._on_gpu, switch.__name__) == (rotary, rotary_kernel, rotary.__name__)


def test_a_function_is_chosen_by_the_device() -> None:
    class OnGpu(torch.Tensor):
        """A tensor that says it is on a GPU."""

        device = torch.device("cuda", 0)

    switch = fused._ByDevice(lambda tensor, scale: scale, lambda tensor, scale: -scale)
    assert switch(torch.ones(1), scale=3) == 3
    assert switch(torch.ones(1).as_subclass(OnGpu), 3) == -3


def test_a_class_of_custom_code_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be called a llama, and Liger would take it for one."""

    class Custom(LlamaForCausalLM):
        """As ``trust_remote_code`` makes one: a class of another module."""

    monkeypatch.setattr("transformers.integrations.liger.apply_liger_kernel", lambda *arguments: pytest.fail("patched"))
    fused.fuse_layers(Custom(small().config))
