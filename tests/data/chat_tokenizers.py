"""Tokenizers as chat models have them, trained on two sentences: byte-level BPE, SentencePiece-like BPE, Unigram; their templates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from raypref.data.policy_facts import PolicyFacts, end_tokens

CORPUS = ["The capital of France is Paris. Why so? Hello, because not! user assistant system model", "### User: Assistant:\n so no yes"] * 9


def byte_level(special: list[str]) -> Tokenizer:
    """GPT-2, Llama 3, Qwen: no text is unknown."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    backend.train_from_iterator(CORPUS, trainer)
    return backend


def sentence_piece(special: list[str], prepend: str) -> Tokenizer:
    """Llama 2, Mistral: a space before the first word, or before every piece of text between special tokens."""
    alphabet = [chr(k) for k in range(32, 127)] + ["\n", "▁"]
    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend)
    backend.decoder = decoders.Metaspace(prepend_scheme=prepend)
    backend.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>", *special], initial_alphabet=alphabet, max_token_length=8)
    )
    return backend


def unigram(special: list[str]) -> Tokenizer:
    """T5, XLM-R: the vocabulary has the special tokens as pieces with the best score, so that their names can be pieces of a text."""
    pieces = [("<unk>", 0.0), *((name, 0.0) for name in special), *((chr(k), -8.0) for k in range(32, 127)), ("\n", -8.0), ("▁", -3.0)]
    words = [(word, -4.0) for word in ("▁Paris", "▁The", "▁so", "▁no", "▁capital", "▁is", "user", "assistant")]
    backend = Tokenizer(models.Unigram([*pieces, *words], unk_id=0))
    backend.normalizer = normalizers.Replace(" {2,}", " ")
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(prepend_scheme="first"), decoders.Metaspace(prepend_scheme="first")
    return backend


CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
DEFAULT_SYSTEM = "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nBe brief.<|im_end|>\\n' }}{% endif %}" + CHATML
LLAMA_3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<h>' + m['role'] + '</h>\\n\\n' + m['content'] | trim + '<|eot|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<h>assistant</h>\\n\\n' }}{% endif %}"
)
LLAMA_2 = (
    "{% if messages[0]['role'] == 'system' %}{% set first = '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' %}"
    "{% set turns = messages[1:] %}{% else %}{% set first = '' %}{% set turns = messages %}{% endif %}"
    "{% for m in turns %}{% if m['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + ((first if loop.first else '') + m['content']) | trim + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] | trim + ' ' + eos_token }}{% endif %}{% endfor %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %}{{ ' ' + m['content'] + eos_token }}"
    "{% else %}{{ '[INST] ' + m['content'] + ' [/INST]' }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{{ '<turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\\n' + m['content'] | trim + '</turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<turn>model\\n' }}{% endif %}"
)
QWEN_3 = (
    "{% for m in messages %}{% set content = m['content'] %}{% if m['role'] == 'assistant' %}"
    "{% set thought = '' %}{% if '</think>' in content %}{% set thought = content.split('</think>')[0].split('<think>')[-1].strip('\\n') %}"
    "{% set content = content.split('</think>')[-1].lstrip('\\n') %}{% endif %}"
    "{{ '<|im_start|>assistant\\n' + (('<think>\\n' + thought + '\\n</think>\\n\\n') if loop.last else '') + content + '<|im_end|>\\n' }}"
    "{% else %}{{ '<|im_start|>' + m['role'] + '\\n' + content + '<|im_end|>\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
NO_GENERATION_PROMPT = "{% for m in messages %}{{ '### ' + m['role'] + ': ' + m['content'] + eos_token + '\\n' }}{% endfor %}"
ZEPHYR = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\\n' + m['content'] + eos_token + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)
NO_END = (
    "{{ bos_token }}{% for m in messages %}{{ '### ' + m['role'] + ':\\n' + m['content'] + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### assistant:\\n' }}{% endif %}"
)
ALWAYS_ASKS = "{% for m in messages %}{{ '<h>' + m['role'] + '</h> ' + m['content'] + ' ' }}{% endfor %}{{ '<h>assistant</h>' }}"


@dataclass(frozen=True, slots=True)
class Kind:
    """One chat model's tokenizer."""

    make: Callable[[], Tokenizer]
    template: str
    eos: str
    bos: str | None = None
    named: tuple[str, ...] = ()
    """The end tokens of the model's generation config."""
    begins: bool = False
    """Whether the tokenizer puts its bos token before plain text."""
    ends: bool = False
    """Whether the tokenizer puts its eos token behind plain text."""


KINDS = {
    "ChatML, two ends": Kind(
        lambda: byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>"]), CHATML, "<|im_end|>", named=("<|endoftext|>", "<|im_end|>")
    ),
    "default system prompt": Kind(
        lambda: byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>"]),
        DEFAULT_SYSTEM,
        "<|im_end|>",
        named=("<|im_end|>", "<|endoftext|>"),
    ),
    "Llama 3: trimmed, three ends": Kind(
        lambda: byte_level(["<|begin|>", "<|end|>", "<h>", "</h>", "<|eom|>", "<|eot|>"]),
        LLAMA_3,
        "<|eot|>",
        "<|begin|>",
        ("<|end|>", "<|eom|>", "<|eot|>"),
        begins=True,
    ),
    "Llama 2: trimmed, spaces": Kind(lambda: sentence_piece(["<s>", "</s>"], "always"), LLAMA_2, "</s>", "<s>", ("</s>",), begins=True),
    "Mistral: a space before the answer": Kind(
        lambda: sentence_piece(["<s>", "</s>", "[INST]", "[/INST]"], "first"), MISTRAL, "</s>", "<s>", ("</s>",), begins=True
    ),
    "Gemma: the end that the tokenizer does not call one": Kind(
        lambda: sentence_piece(["<bos>", "<eos>", "<turn>", "</turn>"], "never"), GEMMA, "<eos>", "<bos>", ("<eos>", "</turn>"), begins=True
    ),
    "Qwen 3: an empty thought": Kind(
        lambda: byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>"]), QWEN_3, "<|im_end|>", named=("<|im_end|>", "<|endoftext|>")
    ),
    "no generation prompt": Kind(lambda: byte_level(["</s>"]), NO_GENERATION_PROMPT, "</s>", named=("</s>",)),
    "adds its own end": Kind(lambda: sentence_piece(["<s>", "</s>"], "first"), ZEPHYR, "</s>", "<s>", ("</s>",), begins=True, ends=True),
    "Unigram": Kind(lambda: unigram(["<s>", "</s>", "<h>", "</h>", "<|eot|>"]), LLAMA_3, "</s>", "<s>", ("</s>", "<|eot|>"), begins=True),
    "the end that the model does not name": Kind(
        lambda: byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>"]), CHATML, "<|im_end|>", named=("<|endoftext|>",)
    ),
    "the end that neither names": Kind(
        lambda: byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>"]), CHATML, "<|endoftext|>", named=("<|endoftext|>",)
    ),
    "no end": Kind(lambda: byte_level(["<s>", "</s>"]), NO_END, "</s>", "<s>", ("</s>",), begins=True),
    "always asks": Kind(lambda: byte_level(["<h>", "</h>", "</s>"]), ALWAYS_ASKS, "</s>", named=("</s>",)),
}


@cache
def facts_of_kind(name: str) -> PolicyFacts:
    """The tokenizer, its template and its end tokens; a context of 4,096."""
    kind = KINDS[name]
    backend = kind.make()
    if kind.begins or kind.ends:
        single = f"{kind.bos if kind.begins else ''} $A {kind.eos if kind.ends else ''}".strip()
        used = [token for token in (kind.bos, kind.eos) if token is not None and token in single]
        pairs = [(token, backend.token_to_id(token)) for token in used]
        backend.post_processor = processors.TemplateProcessing(single=single, special_tokens=pairs)
    special: dict[str, Any] = {"eos_token": kind.eos} | ({} if kind.bos is None else {"bos_token": kind.bos})
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **special)
    vocabulary = tokenizer.get_vocab()
    if "Unigram" in name:
        tokenizer.add_special_tokens({"additional_special_tokens": ["<h>", "</h>", "<|eot|>"]})
    if "Qwen 3" in name:
        tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.chat_template = kind.template
    return PolicyFacts(tokenizer, 4096, end_tokens(tokenizer, [vocabulary[token] for token in kind.named]))
