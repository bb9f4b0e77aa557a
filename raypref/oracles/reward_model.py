"""A reward model, which scores each response by itself, as the source of preferences."""

from __future__ import annotations

from collections.abc import Sequence
from string import Formatter
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import AfterValidator, Field, PositiveInt, PrivateAttr

from raypref.errors import ConfigError
from raypref.oracles.base import Answer, Oracle, Question, Services, oracles
from raypref.oracles.support.reward_scorer import RewardInput, RewardScorer, load_scorer
from raypref.oracles.support.token_batches import Device, in_batches
from raypref.preferences import sigmoid
from raypref.registry import UserPath


def _template(value: str) -> str:
    if value in ("auto", "chat", "pair"):
        return value
    try:
        fields = [field for _, field, _, _ in Formatter().parse(value) if field is not None]
    except ValueError as error:
        raise ConfigError(f"oracle.template: {value!r}: {error}; write a literal brace twice") from error
    if sorted(fields) != ["prompt", "response"]:
        raise ConfigError(
            f"oracle.template: expected auto, chat, pair, or a text with {{prompt}} and {{response}} once each, got {value!r}"
        )
    return value


@oracles.register("reward_model")
class RewardModel(Oracle):
    """Bradley-Terry: P[i, j] = sigmoid((r_i - r_j) / temperature) with rewards r; transitive by construction.

    Source: SPO (2). The model is a ``transformers.AutoModelForSequenceClassification`` with one output; ``template`` makes its inputs. A
    response is read once, however many comparisons it is in, and apart from rounding its reward does not depend on its batch. Text
    that looks like a special token is read as a space.
    """

    directories: ClassVar[tuple[str, ...]] = ("path",)

    type: str = "reward_model"
    path: UserPath
    """Model directory or hub name; weights in safetensors."""
    template: Annotated[str, AfterValidator(_template)] = "auto"
    """How a prompt and a response become an input. chat: the tokenizer's chat template, with the response as the assistant's last turn;
    pair: two segments, as encoders are trained; or a text with ``{prompt}`` and ``{response}``, such as
    ``"Human: {prompt}\\n\\nAssistant: {response}"``; auto: chat where the tokenizer has a template, else pair. All but chat write a
    chat of several turns as ``role: content``."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """The temperature of the Bradley-Terry model, in units of reward; a smaller one gives more extreme probabilities."""
    max_tokens: PositiveInt | None = None
    """Longest input in tokens, special tokens included; default: the longest that the model can read."""
    truncate: Literal["left", "right"] = "left"
    """Which end of a longer input is cut. Its first and its last token stay, since models read the reward from them."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the weights."""
    batch_tokens: PositiveInt | None = None
    """Tokens of one forward pass, padding included; default: one input per pass on a CPU, 16,384 tokens on a GPU."""
    device: Device = "auto"
    """auto: cuda where there is a GPU."""

    _scorer: RewardScorer | None = PrivateAttr(default=None)

    def load(self, services: Services) -> None:
        """Load the model.

        Raises:
            ConfigError: the model is missing, is no reward model, or does not fit ``template`` or ``max_tokens``.
        """
        self._scorer = load_scorer(
            self.path, template=self.template, max_tokens=self.max_tokens, truncate=self.truncate, dtype=self.dtype, device=self.device
        )

    def compare(self, questions: Sequence[Question]) -> list[Answer]:
        assert self._scorer is not None, "load() comes before the first question"
        wanted = [sorted({k for pair in question.pairs for k in pair}) for question in questions]
        inputs = [self._scorer.encode(question, k) for question, numbers in zip(questions, wanted, strict=True) for k in numbers]
        rewards = in_batches(self._scorer.rewards, inputs, self.batch_tokens, self._scorer.device)
        scored = iter(zip(rewards, inputs, strict=True))
        return [self._answer(question, {k: next(scored) for k in numbers}) for question, numbers in zip(questions, wanted, strict=True)]

    def identity(self) -> str:
        return self.model_dump_json(exclude={"batch_tokens", "device"})

    def _answer(self, question: Question, scored: dict[int, tuple[float, RewardInput]]) -> Answer:
        rewards = np.zeros(len(question.responses))
        for k, (reward, _) in scored.items():
            rewards[k] = reward
        scores = (rewards[:, None] - rewards[None, :]) / self.temperature
        observed = {
            "oracle/reward": [reward for reward, _ in scored.values()],
            "oracle/truncated_inputs": [float(item.cut) for _, item in scored.values()],
        }
        return Answer(sigmoid(scores), observed)
