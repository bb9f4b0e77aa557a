"""Random models for the checks on a GPU: of the classes and sizes that people train there, and a tiny one for a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.models import END

SHAPES: dict[str, dict[str, int]] = {
    "tiny": {"vocab_size": 512, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4},
    "0.5b": {"vocab_size": 151_936, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14},
    "1.5b": {"vocab_size": 151_936, "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12},
}
"""Qwen2.5's, with 2 key-value heads and tied embeddings: 0.49 and 1.54 billion parameters."""


def model_config(name: str) -> Any:
    """transformers' config of a size of ``SHAPES``, or of ``1.2b``: Llama-3.2-1B's shape."""
    from transformers import LlamaConfig, Qwen2Config

    common: dict[str, Any] = {"max_position_embeddings": 8192, "tie_word_embeddings": True, "bos_token_id": None, "eos_token_id": END}
    if name == "1.2b":
        shape = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32}
        return LlamaConfig(vocab_size=128_256, **shape, num_key_value_heads=8, **common)
    return Qwen2Config(**SHAPES[name], num_key_value_heads=2, **common)


def save_model(directory: Path, name: str, device: str) -> None:
    """Write a model with random weights, made on ``device``, in bfloat16, and a tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    config = model_config(name)
    torch.manual_seed(0)
    with torch.device(device):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(directory)
    _save_tokenizer(directory, config.vocab_size)
    del model
    if device != "cpu":
        torch.cuda.empty_cache()


def _save_tokenizer(directory: Path, vocabulary: int) -> None:
    """Of bytes, as Qwen's without its merges: transformers reads any tokenizer beside a Qwen2 model as that. A token that is no byte is
    decoded to a word."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    known = ["<pad>", "<|endoftext|>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    names = [*known, *(f"\u0120w{k}" for k in range(len(known), vocabulary))]
    tokenizer = Tokenizer(models.BPE({name: index for index, name in enumerate(names)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>").save_pretrained(directory)
