"""Models that the real engines can run and that take milliseconds: random weights, two layers, a vocabulary of 64 words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WORDS = 61
"""Plain words of the vocabulary, w0 to w60; with <pad>, <s>, </s> it has 64 entries."""


def make_model(directory: Path, *, tied: bool) -> Path:
    """Random weights wide enough that the next-token distribution is far from uniform; heads of width 32, which vLLM asks for."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=WORDS + 3,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
        initializer_range=0.3,
        tie_word_embeddings=tied,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    _tokenizer().save_pretrained(directory)
    return directory


_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}
OTHER_FORMS: dict[str, dict[str, Any]] = {
    "gpt_neox": {"intermediate_size": 96},
    "qwen3_5_text": {
        "intermediate_size": 96,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "layer_types": ["linear_attention", "full_attention"],
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 2,
        "linear_key_head_dim": 32,
        "linear_value_head_dim": 32,
    },
    "qwen3_moe": {"moe_intermediate_size": 32, "num_key_value_heads": 1, "head_dim": 32, **_EXPERTS},
    "mixtral": {"intermediate_size": 96, "num_key_value_heads": 1, "num_local_experts": 4},
    "olmoe": {"intermediate_size": 32, "num_key_value_heads": 2, **_EXPERTS},
    "granitemoe": {
        "intermediate_size": 32,
        "num_key_value_heads": 1,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "attention_multiplier": 1 / 32,
    },
    "deepseek_v2": {
        "intermediate_size": 96,
        "num_key_value_heads": 2,
        "moe_intermediate_size": 32,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_shared_experts": 1,
        "first_k_dense_replace": 1,
        "n_group": 1,
        "topk_group": 1,
        "kv_lora_rank": 512,
        "q_lora_rank": None,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
    },
}
"""``model_type`` -> settings of a tiny model whose checkpoint has other names than the module, or each expert by itself."""


def make_other_form(model_type: str, directory: Path) -> Path:
    """A model of ``OTHER_FORMS``. Qwen3.5's text weights have the names that they have in its published files, which are those of a model
    for images, too."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        model_type,
        vocab_size=WORDS + 3,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=256,
        initializer_range=0.3,
        tie_word_embeddings=False,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        **OTHER_FORMS[model_type],
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    if model_type == "qwen3_5_text":
        file = directory / "model.safetensors"
        named = {name.replace("model.", "model.language_model.", 1): tensor for name, tensor in load_file(file).items()}
        save_file(named, file, metadata={"format": "pt"})
    _tokenizer().save_pretrained(directory)
    return directory


def _tokenizer() -> PreTrainedTokenizerFast:
    """Word level: "w3 w7" is two tokens, 6 and 10."""
    special = ["<pad>", "<s>", "</s>"]
    vocabulary = {token: index for index, token in enumerate([*special, *(f"w{k}" for k in range(WORDS))])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
