"""A small pair ranker with random weights, in llm-blender's own checkpoint format.

The tokenizer is a SentencePiece model trained here, laid out like DeBERTa-v3's: [PAD] 0, [CLS] 1, [SEP] 2, [UNK] 3, NFKC normalisation.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from raypref.oracles.support.pairrm_model import _llm_blender, _tokenizer


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Directories of one pair ranker."""

    path: Path
    """config.json and model.safetensors, as ``llm-blender/PairRM`` has them; its ``model_name`` is ``base``."""
    base: Path
    """The encoder's config and ``spm.model``."""
    blender_base: Path
    """The same encoder and tokenizer in a form that ``llm_blender.Blender`` reads on transformers 5."""

    def blender(self) -> Any:
        """llm-blender's own ``Blender`` with this checkpoint, on CPU, without its warnings and prints."""
        _llm_blender()
        from llm_blender import Blender, BlenderConfig

        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            blender = Blender(BlenderConfig(device="cpu", use_tqdm=False))
            blender.loadranker(str(self.path), device="cpu", model_name=str(self.blender_base))
        blender.ranker_tokenizer.batch_encode_plus = blender.ranker_tokenizer.__call__
        return blender


def make_checkpoint(
    directory: Path,
    texts: Sequence[str],
    *,
    vocabulary: int,
    hidden: int = 128,
    layers: int = 2,
    position_buckets: int = 32,
    source_tokens: int = 48,
    candidate_tokens: int = 16,
) -> Checkpoint:
    """
    Args:
        directory: an empty one.
        texts: what the tokenizer is trained on.
        vocabulary: its size at most.
        hidden: width, a multiple of 64: of the heads.
        layers: of the encoder.
        position_buckets: of the relative positions, in one direction; PairRM has 256.
        source_tokens: PairRM has 1,224.
        candidate_tokens: PairRM has 412.
    """
    from safetensors.torch import save_file
    from transformers import AutoModel, DebertaV2Config

    found = Checkpoint(directory / "pairrm", directory / "base", directory / "blender_base")
    for folder in (found.path, found.base, found.blender_base):
        folder.mkdir()
    _train_tokenizer(found.base / "spm", texts, vocabulary)
    blender = _llm_blender()
    tokenizer = _tokenizer(found.base)
    config = DebertaV2Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        intermediate_size=4 * hidden,
        max_position_embeddings=2 * position_buckets,
        relative_attention=True,
        position_buckets=position_buckets,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        pos_att_type=["p2c", "c2p"],
        position_biased_input=False,
        type_vocab_size=0,
        pad_token_id=0,
    )
    config.save_pretrained(found.base)
    tokenizer.save_pretrained(found.blender_base)
    torch.manual_seed(0)
    AutoModel.from_config(config).save_pretrained(found.blender_base)
    settings = blender.RankerConfig(
        ranker_type="pairranker",
        model_type="deberta-v3",
        model_name=str(found.base),
        source_maxlength=source_tokens,
        candidate_maxlength=candidate_tokens,
    )
    blender.CrossCompareCollator(source_tokens, tokenizer, candidate_tokens)  # adds the four prefix tokens
    config.vocab_size = len(tokenizer)
    encoder = AutoModel.from_config(config)
    encoder.config.out_hidden_state_size = hidden
    ranker = blender.CrossCompareReranker(encoder, settings, tokenizer)
    for parameter in ranker.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.3)  # the usual 0.02 would make all scores alike
    save_file(ranker.state_dict(), found.path / "model.safetensors")
    (found.path / "config.json").write_text(settings.to_json())
    return found


def _train_tokenizer(prefix: Path, texts: Sequence[str], vocabulary: int) -> None:
    import sentencepiece

    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_prefix=str(prefix),
        vocab_size=vocabulary,
        model_type="unigram",
        pad_id=0,
        bos_id=1,
        eos_id=2,
        unk_id=3,
        pad_piece="[PAD]",
        bos_piece="[CLS]",
        eos_piece="[SEP]",
        unk_piece="[UNK]",
        hard_vocab_limit=False,
        minloglevel=2,
    )


class NoServices:
    """For oracles that ask neither an engine nor the policy."""

    def engine(self, path: str, *, dtype: str, max_tokens: int, gpu_memory_utilization: float) -> Any:
        raise AssertionError("no engine was to be asked for")

    def ask_policy(self, chats: Any, *, names: Any, policy_version: int | None, temperature: float, max_tokens: int) -> Any:
        raise AssertionError("the policy was not to be asked")
