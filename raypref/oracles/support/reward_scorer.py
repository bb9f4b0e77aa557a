"""Scores prompts and responses with a sequence classifier of one output; padded so that no reward depends on its batch.

A decoder's reward is read at the last token that is not the padding token of its config, an encoder's where it was trained to be. Many
decoder checkpoints name no padding token; transformers then reads a single input at its last token and refuses a batch. Here such a batch
is padded with a token with which none of its inputs ends, so that each input gets the reward that it gets alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Literal

from raypref.errors import ConfigError, OracleError
from raypref.oracles.base import Question
from raypref.oracles.support.token_batches import Device, device_of, padded


@dataclass(frozen=True, slots=True)
class RewardInput:
    """A prompt and a response as the model reads them."""

    ids: tuple[int, ...]
    """(T,)"""
    segments: tuple[int, ...] | None
    """(T,) token type ids, where the tokenizer returns them."""
    cut: bool = field(compare=False)
    """Whether the text was cut."""


class RewardScorer:
    """A reward model, and how it writes its inputs."""

    def __init__(self, model: Any, tokenizer: Any, template: str, max_tokens: int, truncate: Literal["left", "right"], device: str) -> None:
        """
        Args:
            model: a sequence classifier with one output.
            tokenizer: its tokenizer.
            template: ``chat``, ``pair``, or a text with ``{prompt}`` and ``{response}``.
            max_tokens: longest input.
            truncate: which end of a longer input is cut.
            device: of the model.
        """
        self.model = model
        self.tokenizer = tokenizer
        self.template = template
        self.max_tokens = max_tokens
        self.truncate = truncate
        self.device = device
        added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
        self._reserved = sorted({*tokenizer.all_special_tokens, *added}, key=len, reverse=True)
        self._padding: int | None = model.config.get_text_config().pad_token_id

    def encode(self, question: Question, response: int) -> RewardInput:
        """The input of one response to a question, cut to ``max_tokens``.

        Raises:
            OracleError: the chat template refuses the question's chat.
        """
        answer = self._neutral(question.responses[response])
        if self.template == "chat":
            encoded = self.tokenizer(self._chat(question, answer), add_special_tokens=False)
        elif self.template == "pair":
            encoded = self.tokenizer(self._neutral(question.prompt), answer)
        else:
            encoded = self.tokenizer(self.template.format(prompt=self._neutral(question.prompt), response=answer))
        segments = encoded.get("token_type_ids")
        cut = len(encoded["input_ids"]) > self.max_tokens
        return RewardInput(self._fit(encoded["input_ids"]), None if segments is None else self._fit(segments), cut)

    def _chat(self, question: Question, answer: str) -> str:
        import jinja2

        turns = [{"role": role, "content": self._neutral(content)} for role, content in question.turns]
        try:
            return str(self.tokenizer.apply_chat_template([*turns, {"role": "assistant", "content": answer}], tokenize=False))
        except jinja2.TemplateError as error:
            raise OracleError(
                f"oracle 'reward_model', prompt {question.prompt_id!r}: the reward model's chat template refuses this chat: {error}; "
                f"set oracle.template to a text with {{prompt}} and {{response}}"
            ) from error

    def _neutral(self, text: str) -> str:
        for token in self._reserved:
            text = text.replace(token, " ")
        return text

    def _fit(self, row: list[int]) -> tuple[int, ...]:
        if len(row) <= self.max_tokens:
            return tuple(row)
        return (row[0], *row[len(row) - self.max_tokens + 1 :]) if self.truncate == "left" else (*row[: self.max_tokens - 1], row[-1])

    def rewards(self, inputs: Sequence[RewardInput]) -> list[float]:
        """(N,) the model's outputs."""
        import torch

        rows = [item.ids for item in inputs]
        if self._padding is None:
            ends = {row[-1] for row in rows}
            padding = next(token for token in count() if token not in ends)
            self.model.config.get_text_config().pad_token_id = padding
        else:
            padding = self._padding
        ids, mask = padded(rows, padding, self.device)
        extra = {}
        if inputs[0].segments is not None:
            extra["token_type_ids"] = padded([item.segments or () for item in inputs], 0, self.device)[0]
        with torch.inference_mode():
            rewards: list[float] = self.model(input_ids=ids, attention_mask=mask, **extra).logits[:, 0].double().cpu().tolist()
        return rewards


def load_scorer(
    path: str, *, template: str, max_tokens: int | None, truncate: Literal["left", "right"], dtype: str, device: Device
) -> RewardScorer:
    """Load a reward model; the arguments are the fields of ``RewardModel``.

    Raises:
        ConfigError: the model is missing, is no reward model, or does not fit the template or the longest input.
    """
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

    config = _loaded(AutoConfig, path)
    if config.num_labels != 1:
        raise ConfigError(f"oracle.path: {path} has {config.num_labels} outputs (num_labels); a reward model has 1")
    tokenizer = _loaded(AutoTokenizer, path)
    model, info = _loaded(
        AutoModelForSequenceClassification, path, dtype=getattr(torch, dtype), use_safetensors=True, output_loading_info=True
    )
    if info["missing_keys"]:
        raise ConfigError(f"oracle.path: {path} lacks the weights {sorted(info['missing_keys'])}: it was not trained as a reward model")
    if template == "chat" and not tokenizer.chat_template:
        raise ConfigError(f"oracle.template: chat, but the tokenizer in {path} has no chat template; give a text, or pair")
    if template == "auto":
        template = "chat" if tokenizer.chat_template else "pair"
    model.config.use_cache = False
    where = device_of(device)
    return RewardScorer(model.eval().to(where), tokenizer, template, _limit(config, tokenizer, max_tokens), truncate, where)


def _loaded(kind: Any, path: str, **settings: Any) -> Any:
    try:
        return kind.from_pretrained(path, **settings)
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"oracle.path: cannot load {path!r}: {error}") from error


def _limit(config: Any, tokenizer: Any, max_tokens: int | None) -> int:
    positions = getattr(config.get_text_config(), "max_position_embeddings", None) or tokenizer.model_max_length
    readable = int(min(positions, tokenizer.model_max_length))
    if max_tokens is not None and max_tokens > readable:
        raise ConfigError(f"oracle.max_tokens: {max_tokens}, but the model reads {readable} tokens")
    return max_tokens or readable
