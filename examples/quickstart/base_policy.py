"""The quickstart's inputs, made on the spot: prompts, demonstrations, a tokenizer, and a Llama with fresh weights."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from examples.quickstart.grammar import all_prompts, answer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SEED = 0
HELD_OUT_PROMPTS = 96
TRAIN_PROMPTS = 1080
"""Three disjoint thirds of 360, one for each iteration."""
DEMONSTRATIONS = 9600
VOCABULARY = 512
"""256 bytes, 2 special tokens, and the merges that make every word of the grammar one token."""
PAD, END = "<pad>", "<eos>"


def prepare(directory: Path) -> None:
    """Write ``held_out.jsonl``, ``prompts.jsonl``, ``demonstrations.jsonl`` and ``init/``, a model directory of 1.08M random weights.

    The three files share no prompt. The same call writes the same bytes on every machine.
    """
    directory.mkdir(parents=True, exist_ok=True)
    source = random.Random(SEED)
    prompts = all_prompts()
    source.shuffle(prompts)
    train_end = HELD_OUT_PROMPTS + TRAIN_PROMPTS
    _write(directory / "held_out.jsonl", _prompt_records("held-out", prompts[:HELD_OUT_PROMPTS]))
    _write(directory / "prompts.jsonl", _prompt_records("train", prompts[HELD_OUT_PROMPTS:train_end]))
    demonstrations = [(prompt, answer(prompt, source)) for prompt in source.choices(prompts[train_end:], k=DEMONSTRATIONS)]
    _write(
        directory / "demonstrations.jsonl",
        ({"id": f"demo-{k:05d}", "prompt": prompt, "response": response} for k, (prompt, response) in enumerate(demonstrations)),
    )
    _save_model(directory / "init", train_tokenizer(prompt + response for prompt, response in demonstrations))


def train_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of at most ``VOCABULARY`` tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[PAD, END], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, padding_side="left")


def _save_model(directory: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.utils.logging import disable_progress_bar

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=448,
        num_hidden_layers=4,
        num_attention_heads=4,  # of width 32: vllm's CPU attention has kernels for 32, 64 and the like only
        num_key_value_heads=4,
        max_position_embeddings=128,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = LlamaForCausalLM(config)
    disable_progress_bar()
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def _prompt_records(kind: str, prompts: list[str]) -> Iterable[dict[str, str]]:
    return ({"id": f"{kind}-{k:04d}", "prompt": prompt} for k, prompt in enumerate(prompts))


def _write(path: Path, records: Iterable[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
