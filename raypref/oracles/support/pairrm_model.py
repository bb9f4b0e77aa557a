"""llm-blender's pair ranker on current transformers: its classes and checkpoint format, with silent errors corrected.

llm-blender 0.0.2 was written for transformers 4. On transformers 5 (measured):

- ``transformers.utils.hub.TRANSFORMERS_CACHE``, which its import needs, is gone: it is defined before the import;
- ``tokenizer.batch_encode_plus``, which its collator calls, is gone: this module tokenises by itself and never calls it;
- weights would be rounded to the base checkpoint's float16: the encoder is built from its config in float32 instead;
- the DeBERTa tokenizer has lost its character normalisation (ligatures and full-width letters become [UNK]): a ``tokenizer.json`` of
  transformers 4 is read as it is, and an ``spm.model`` alone is converted by the converter of transformers 4, which still exists.

Input: ``[CLS]<|source|>x[SEP][CLS]<|candidate1|>a[SEP][CLS]<|candidate2|>b[SEP]``; logit = f(h_source, h_candidate1) - f(h_source,
h_candidate2), where h are the last hidden states at the three prefix tokens.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from raypref.errors import ConfigError
from raypref.oracles.support.token_batches import Device, device_of, padded

SPECIAL_TOKENS = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]", "mask_token": "[MASK]"}


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids of a text, ``[CLS] prefix ... [SEP]``."""

    ids: list[int]
    cut: bool
    """Whether the text was cut."""


@dataclass(frozen=True, slots=True)
class PairInput:
    """A source with two candidates, as the encoder reads them."""

    ids: tuple[int, ...]
    """(T,)"""
    candidate1: int
    """Position of the first candidate's prefix token; the source's is at 1."""
    candidate2: int
    cut: bool = field(compare=False)
    """Whether one of the three texts was cut."""


class PairRanker:
    """llm-blender's ``CrossCompareReranker``. Inputs are made one prompt at a time, so that no score depends on its batch."""

    def __init__(self, model: Any, tokenizer: Any, source_tokens: int, candidate_tokens: int, device: str) -> None:
        """
        Args:
            model: the ``CrossCompareReranker``.
            tokenizer: with the four prefix tokens that ``CrossCompareCollator`` adds.
            source_tokens: longest source, special tokens included.
            candidate_tokens: longest candidate with a source of full length; both candidates share what a shorter source leaves.
            device: of the model.
        """
        self.model = model
        self.tokenizer = tokenizer
        self.source_tokens = source_tokens
        self.candidate_tokens = candidate_tokens
        self.device = device
        prefixes = (tokenizer.source_prefix, tokenizer.candidate1_prefix, tokenizer.candidate2_prefix, tokenizer.candidate_prefix)
        self._reserved = [*SPECIAL_TOKENS.values(), *prefixes]
        reserved_ids = tokenizer.convert_tokens_to_ids(self._reserved)
        self._forbidden_ids = frozenset(reserved_ids) - {tokenizer.unk_token_id}

    def encode(self, source: str, candidates: Sequence[str]) -> tuple[Encoded, list[Encoded]]:
        """A source and its candidates, each cut at the end to its limit. A candidate's limit depends on its source alone."""
        prefixes = [self.tokenizer.source_prefix, *[self.tokenizer.candidate_prefix] * len(candidates)]
        texts = [prefix + self._neutral(text) for prefix, text in zip(prefixes, (source, *candidates), strict=True)]
        read, *others = map(self._checked, self.tokenizer(texts)["input_ids"])
        first = _cut(read, self.source_tokens)
        limit = self.candidate_tokens + (self.source_tokens - len(first.ids)) // 2
        return first, [_cut(ids, limit) for ids in others]

    def _neutral(self, text: str) -> str:
        """The text with a space for everything that looks like a special token (llm-blender does so for [SEP] alone)."""
        for token in self._reserved:
            text = text.replace(token, " ")
        return text

    def _checked(self, ids: list[int]) -> list[int]:
        """The ids without special tokens that normalisation made of similar characters (full-width letters)."""
        return [*ids[:2], *(k for k in ids[2:-1] if k not in self._forbidden_ids), ids[-1]]

    def join(self, source: Encoded, first: Encoded, second: Encoded) -> PairInput:
        """One input of the encoder. A candidate's second token, the neutral prefix, is replaced by the prefix of its position."""
        one, two = [self.tokenizer.cand1_prefix_id], [self.tokenizer.cand2_prefix_id]
        ids = source.ids + first.ids[:1] + one + first.ids[2:] + second.ids[:1] + two + second.ids[2:]
        start = len(source.ids)
        return PairInput(tuple(ids), start + 1, start + len(first.ids) + 1, source.cut or first.cut or second.cut)

    def logits(self, inputs: Sequence[PairInput]) -> list[float]:
        """(N,) logits, in nats, that the first candidate is better than the second, in this order."""
        import torch

        ids, mask = padded([item.ids for item in inputs], self.tokenizer.pad_token_id, self.device)
        rows = torch.arange(len(inputs), device=self.device)
        with torch.inference_mode(), tensor_float_32(self.device):
            hidden = self.model.pretrained_model(input_ids=ids, attention_mask=mask).last_hidden_state
            first = hidden[rows, torch.tensor([item.candidate1 for item in inputs], device=self.device)]
            second = hidden[rows, torch.tensor([item.candidate2 for item in inputs], device=self.device)]
            left, right, _ = self.model.reduce(hidden[:, 1], first, second)
            logits: list[float] = (left - right).mean(dim=-1).double().cpu().tolist()
        return logits


@contextlib.contextmanager
def tensor_float_32(device: str) -> Iterator[None]:
    """Within the block a GPU multiplies float32 matrices in TensorFloat-32, which has 10 bits of mantissa. Nothing changes on a CPU.

    Measured on an H200, with the encoder of PairRM's size on 20 inputs of 1024 tokens: 334 ms instead of 605; the last hidden states, up to
    3.96, differ by at most 0.0035. bfloat16 takes 299 ms and differs by 0.037.
    """
    import torch

    if device == "cpu":
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _cut(ids: list[int], limit: int) -> Encoded:
    return Encoded(ids, False) if len(ids) <= limit else Encoded([*ids[: limit - 1], ids[-1]], True)


def load_ranker(path: str, base: str | None, device: Device) -> PairRanker:
    """Load a pair ranker that llm-blender saved.

    Args:
        path: directory with ``config.json`` (a ``RankerConfig``) and ``model.safetensors``, or a hub name.
        base: directory or hub name of the encoder's config and tokenizer; None: the checkpoint's ``model_name``.
        device: ``auto``, ``cuda`` or ``cpu``.

    Raises:
        ConfigError: a file is missing, or tokenizer, config and weights do not fit each other.
    """
    import torch
    from safetensors.torch import load_file
    from transformers import AutoConfig, AutoModel

    blender = _llm_blender()
    directory = _directory(path, "oracle.path")
    settings = _ranker_config(blender, directory)
    base_directory = _directory(base or settings.model_name, "oracle.base")
    tokenizer = _tokenizer(directory, base_directory)
    blender.CrossCompareCollator(settings.source_maxlength, tokenizer, settings.candidate_maxlength)  # adds the prefix tokens
    weights = load_file(directory / "model.safetensors")
    rows = weights["pretrained_model.embeddings.word_embeddings.weight"].shape[0]
    if rows != len(tokenizer):
        raise ConfigError(f"oracle.base: the tokenizer in {base_directory} has {len(tokenizer)} tokens, the checkpoint {path} has {rows}")
    config = AutoConfig.from_pretrained(base_directory, vocab_size=rows)
    encoder = AutoModel.from_config(config, dtype=torch.float32)
    encoder.config.out_hidden_state_size = encoder.config.hidden_size
    model = blender.CrossCompareReranker(encoder, settings, tokenizer)
    missing, unexpected = model.load_state_dict({name: value.float() for name, value in weights.items()}, strict=False)
    if missing or unexpected:
        raise ConfigError(f"oracle.path: {path} does not fit the encoder of {base_directory}: missing {missing}, unknown {unexpected}")
    where = device_of(device)
    return PairRanker(model.eval().to(where), tokenizer, settings.source_maxlength, settings.candidate_maxlength, where)


def _llm_blender() -> SimpleNamespace:
    """llm-blender's classes, imported on transformers 5, and without vLLM, which its package would otherwise import."""
    import transformers.utils.hub
    from huggingface_hub.constants import HF_HUB_CACHE

    if not hasattr(transformers.utils.hub, "TRANSFORMERS_CACHE"):
        transformers.utils.hub.TRANSFORMERS_CACHE = HF_HUB_CACHE
    with _hidden("vllm"):
        ranker = importlib.import_module("llm_blender.pair_ranker.ranker")
        collator = importlib.import_module("llm_blender.pair_ranker.collator")
        config = importlib.import_module("llm_blender.pair_ranker.config")
    return SimpleNamespace(
        CrossCompareReranker=ranker.CrossCompareReranker,
        CrossCompareCollator=collator.CrossCompareCollator,
        RankerConfig=config.RankerConfig,
    )


@contextlib.contextmanager
def _hidden(module: str) -> Iterator[None]:
    """Make ``import module`` fail inside the block, unless it was imported before."""
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]  # Python's own way to say "cannot be imported"
    try:
        yield
    finally:
        del sys.modules[module]


def _directory(path: str, key: str) -> Path:
    if Path(path).is_dir():
        return Path(path)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(path))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ConfigError(f"{key}: {path!r} is not a directory, nor a hub repository that can be reached: {error}") from error


def _ranker_config(blender: SimpleNamespace, directory: Path) -> Any:
    file = directory / "config.json"
    if not file.exists() or not (directory / "model.safetensors").exists():
        raise ConfigError(
            f"oracle.path: {directory} has no config.json and model.safetensors; give a checkpoint of llm-blender's pair ranker"
        )
    try:
        stored = json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise ConfigError(f"oracle.path: {file} is not JSON: {error}") from error
    known = {field.name for field in dataclasses.fields(blender.RankerConfig)}
    settings = blender.RankerConfig(**{name: value for name, value in stored.items() if name in known})
    if settings.ranker_type != "pairranker":
        raise ConfigError(f"oracle.path: {file}: ranker_type is {settings.ranker_type!r}; only 'pairranker' compares two responses")
    if settings.source_maxlength is None or settings.candidate_maxlength is None:
        raise ConfigError(f"oracle.path: {file} must state source_maxlength and candidate_maxlength")
    return settings


def _tokenizer(*directories: Path) -> Any:
    """The tokenizer with its character normalisation, from the first directory that has one."""
    from transformers import PreTrainedTokenizerFast

    for directory in directories:
        if (directory / "tokenizer.json").exists():
            return PreTrainedTokenizerFast(tokenizer_file=str(directory / "tokenizer.json"), **SPECIAL_TOKENS)
        if (directory / "spm.model").exists():
            return PreTrainedTokenizerFast(tokenizer_object=_from_sentencepiece(directory / "spm.model"), **SPECIAL_TOKENS)
    raise ConfigError(f"oracle.base: neither tokenizer.json nor spm.model in {' or '.join(map(str, directories))}")


def _from_sentencepiece(file: Path) -> Any:
    """A ``tokenizers`` tokenizer from DeBERTa-v3's SentencePiece model, character normalisation included."""
    import sentencepiece
    from transformers.convert_slow_tokenizer import DebertaV2Converter

    pieces = sentencepiece.SentencePieceProcessor(model_file=str(file))
    slow = SimpleNamespace(vocab_file=str(file), do_lower_case=False, split_by_punct=False, convert_tokens_to_ids=pieces.piece_to_id)
    return DebertaV2Converter(slow).converted()
