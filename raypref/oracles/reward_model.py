"""A reward model, which gives each response a score of its own, as the source of preferences."""

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


def _template(value: str) -> str:
    if value in ("auto", "chat", "pair"):
        return value
    try:
        fields = [field for _, field, _, _ in Formatter().parse(value) if field is not None]
    except ValueError as error:
        raise ConfigError(f"oracle.template: {value!r}: {error}; a brace of its own is written twice") from error
    if sorted(fields) != ["prompt", "response"]:
        raise ConfigError(
            f"oracle.template: expected auto, chat, pair, or a text with {{prompt}} and {{response}} once each, got {value!r}"
        )
    return value


@oracles.register("reward_model")
class RewardModel(Oracle):
    """Bradley-Terry: P[i, j] = sigmoid((r_i - r_j) / temperature), r the rewards; transitive by construction.

    Source: SPO (2); the models are those of ``transformers.AutoModelForSequenceClassification`` with one output, on the inputs that
    ``template`` makes. A response is read once, however many comparisons it is in, and its reward does not depend on what is read
    beside it, rounding in batches aside. What looks like a special token in a prompt or response is read as a space.
    """

    directories: ClassVar[tuple[str, ...]] = ("path",)

    type: str = "reward_model"
    path: str
    """Model directory or hub name; weights in safetensors."""
    template: Annotated[str, AfterValidator(_template)] = "auto"
    """How a prompt and a response are put together. chat: the tokenizer's chat template, the response as the assistant's last turn; pair:
    two segments, as encoders are trained; or a text with ``{prompt}`` and ``{response}``, such as ``"Human: {prompt}\\n\\nAssistant:
    {response}"``; auto: chat where the tokenizer has a template, else pair. All but chat write a longer chat as ``role: content``."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Of the Bradley-Terry model, in units of reward; smaller is more decided."""
    max_tokens: PositiveInt | None = None
    """Longest input, special tokens included; default: what the model can read."""
    truncate: Literal["left", "right"] = "left"
    """Which end of a longer input is cut; its very first and very last token, from which models read the reward, stay."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the weights."""
    batch_tokens: PositiveInt | None = None
    """Tokens of one forward pass, padding included; default: one input a pass on a CPU, 16,384 on a GPU."""
    device: Device = "auto"
    """auto: cuda where there is one."""

    _scorer: RewardScorer | None = PrivateAttr(default=None)

    def load(self, services: Services) -> None:
        """Load the model.

        Raises:
            ConfigError: it is missing, is no reward model, or does not go with ``template`` or ``max_tokens``.
        """
        self._scorer = load_scorer(
            self.path, template=self.template, max_tokens=self.max_tokens, truncate=self.truncate, dtype=self.dtype, device=self.device
        )

    def compare(self, questions: Sequence[Question]) -> list[Answer]:
        assert self._scorer is not None, "load comes first"
        wanted = [sorted({k for pair in question.pairs for k in pair}) for question in questions]
        inputs = [self._scorer.encode(question, k) for question, numbers in zip(questions, wanted, strict=True) for k in numbers]
        rewards = in_batches(self._scorer.rewards, inputs, self.batch_tokens, self._scorer.device)
        found = iter(zip(rewards, inputs, strict=True))
        return [self._answer(question, {k: next(found) for k in numbers}) for question, numbers in zip(questions, wanted, strict=True)]

    def identity(self) -> str:
        return self.model_dump_json(exclude={"batch_tokens", "device"})

    def _answer(self, question: Question, read: dict[int, tuple[float, RewardInput]]) -> Answer:
        rewards = np.zeros(len(question.responses))
        for k, (reward, _) in read.items():
            rewards[k] = reward
        scores = (rewards[:, None] - rewards[None, :]) / self.temperature
        observed = {
            "oracle/reward": [reward for reward, _ in read.values()],
            "oracle/truncated_inputs": [float(item.cut) for _, item in read.values()],
        }
        return Answer(sigmoid(scores), observed)
