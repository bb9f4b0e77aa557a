"""A small generative preference model with random weights: a Llama whose tokenizer and chat template are laid out like Llama 3's.

The tokenizer is a byte-level BPE trained here: any text can be encoded, a space belongs to the word that follows, and "A" and "B" are
tokens. The template is the one that Llama 3 came out with, which opens the assistant's turn whether it is asked to or not.
"""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

BEGIN, HEADER, HEADER_END, END_OF_TURN = "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"
TEMPLATE = (
    "{% for message in messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    " + message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}"
    "{{ content }}{% endfor %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
)
SYLLABLES = ("ka", "lo", "mi", "ne", "pu", "ra", "si", "to", "ve", "zu")
WORDS = tuple(first + second for first in SYLLABLES for second in SYLLABLES)
"""A hundred words, a token each when a space stands before them."""


def make_checkpoint(directory: Path, *, hidden: int = 64, layers: int = 2, positions: int = 512, vocabulary: int = 512) -> Path:
    """Save model and tokenizer.

    Args:
        directory: where.
        hidden: width; heads of 32, half as many for keys and values.
        layers: depth.
        positions: longest input.
        vocabulary: rows of the embedding and of the head; the tokenizer has about 400 tokens.
    """
    tokenizer = _tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=7 * hidden // 2,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32,
        num_key_value_heads=hidden // 64,
        max_position_embeddings=positions,
        initializer_range=0.15,  # wide enough that verdicts are far from one half, and that a place is favoured
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def _tokenizer() -> PreTrainedTokenizerFast:
    frame = "<turn> user <turn> assistant [CONTEXT] [RESPONSE A] [RESPONSE B] A B"
    text = [" ".join((" ", *WORDS)), frame] * 10
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(text, vocab_size=600, min_frequency=2, show_progress=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=trained._tokenizer, bos_token=BEGIN, eos_token=END_OF_TURN)
    tokenizer.add_special_tokens({"additional_special_tokens": [HEADER, HEADER_END]})
    tokenizer.chat_template = TEMPLATE
    return tokenizer
