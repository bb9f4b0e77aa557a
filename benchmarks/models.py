"""Random Llamas with tied embeddings, and a tokenizer with one word per token."""

from __future__ import annotations

from pathlib import Path

SHAPES: dict[str, dict[str, int]] = {
    "260k": {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 172, "num_hidden_layers": 5, "num_attention_heads": 8},
    "7m": {"vocab_size": 4_096, "hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 8, "num_attention_heads": 8},
    "15m": {"vocab_size": 32_000, "hidden_size": 288, "intermediate_size": 768, "num_hidden_layers": 6, "num_attention_heads": 6},
}
"""0.28, 7.4 and 15.2 million parameters."""
END = 2


def make_policy(directory: Path, name: str) -> None:
    """Write the model and its tokenizer. Token k is the word ``wk``, except for 0 (padding) and 2 (end)."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    torch.manual_seed(0)
    shape = SHAPES[name]
    config = LlamaConfig(**shape, max_position_embeddings=1024, tie_word_embeddings=True, bos_token_id=None, eos_token_id=END)
    LlamaForCausalLM(config).save_pretrained(directory)
    special = {0: "<pad>", END: "</s>"}
    words = Tokenizer(models.WordLevel({special.get(k, f"w{k}"): k for k in range(shape["vocab_size"])}, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>", pad_token="<pad>").save_pretrained(directory)
