"""PairRM, a 0.4B pairwise preference model (arXiv 2306.02561), from a checkpoint in llm-blender's format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
from pydantic import PositiveInt, PrivateAttr

from raypref.oracles.base import Answer, Oracle, Question, Services, oracles
from raypref.oracles.support.orders import Orders, Pair, shown
from raypref.oracles.support.pairrm_model import Encoded, PairInput, PairRanker, load_ranker
from raypref.oracles.support.token_batches import Device, in_batches
from raypref.preferences import sigmoid
from raypref.registry import UserPath

CONVERSATION = "Finish the following coversation in each i-th turn by filling in <Response i> with your response."
"""llm-blender's instruction, verbatim."""


@oracles.register("pairrm")
class PairRM(Oracle):
    """P[i, j] = sigmoid(s[i, j]), with s[i, j] = (C[i, j] - C[j, i]) / 2 and C the model's logits.

    Source: SPPO Appendix F (P is the sigmoid of PairRM's relative reward). The model is not antisymmetric: the two orders are averaged
    as scores, before the sigmoid. With ``orders: one``, s is C of the order that is shown, with its sign.

    Departs from llm-blender where a score would depend on its batch: how much of a response is read depends on its prompt's length alone.
    A chat with earlier answers is rendered as by ``Blender.compare_conversations``: the source has the user's turns, with ``<Response i>``
    for the assistant's, and each candidate has all the answers. Where these are too long together, the oldest are left out and counted
    as cut (llm-blender would cut the one that is judged). Any other chat is read as plain text.
    """

    directories: ClassVar[tuple[str, ...]] = ("path", "base")

    type: str = "pairrm"
    path: UserPath = "llm-blender/PairRM"
    """A checkpoint directory (config.json, model.safetensors), or a hub name."""
    base: UserPath | None = None
    """Directory or hub name with the encoder's config and tokenizer; default: the checkpoint's ``model_name``."""
    orders: Orders = "both"
    """both: each pair is read in both orders; one: in one order, drawn from a hash of the texts, at half the cost."""
    batch_tokens: PositiveInt | None = None
    """Tokens of one forward pass, padding included; default: one input per pass on a CPU, 16,384 tokens on a GPU."""
    device: Device = "auto"
    """auto: cuda where there is a GPU."""

    _ranker: PairRanker | None = PrivateAttr(default=None)

    def load(self, services: Services) -> None:
        """Load the model in float32. A GPU multiplies its matrices in TensorFloat-32 (``tensor_float_32``).

        Raises:
            ConfigError: the checkpoint is missing, or is not a pair ranker of llm-blender.
        """
        self._ranker = load_ranker(self.path, self.base, self.device)

    def compare(self, questions: Sequence[Question]) -> list[Answer]:
        assert self._ranker is not None, "load() comes before the first question"
        inputs = [_inputs(self._ranker, question, self.orders) for question in questions]
        every = [item for by_pair in inputs for item in by_pair.values()]
        logits = iter(in_batches(self._ranker.logits, every, self.batch_tokens, self._ranker.device))
        return [
            _answer(question, {pair: next(logits) for pair in by_pair}, [float(item.cut) for item in by_pair.values()])
            for question, by_pair in zip(questions, inputs, strict=True)
        ]

    def identity(self) -> str:
        return self.model_dump_json(exclude={"batch_tokens", "device"})


def _inputs(ranker: PairRanker, question: Question, orders: Orders) -> dict[Pair, PairInput]:
    source, candidates = _encode(ranker, question)
    return {(i, j): ranker.join(source, candidates[i], candidates[j]) for i, j in shown(question, orders)}


def _encode(ranker: PairRanker, question: Question) -> tuple[Encoded, list[Encoded]]:
    roles = [role for role, _ in question.chat]
    if len(roles) < 3 or roles != ["user", "assistant"] * (len(roles) // 2) + ["user"]:
        return ranker.encode(question.prompt, question.responses)
    asked = [content for role, content in question.chat if role == "user"]
    earlier = [f"<Response {n}>: {content}" for n, (_, content) in enumerate(question.chat[1::2], start=1)]
    lines = [f"USER: {content}\nAssistant: <Response {n}>" for n, content in enumerate(asked, start=1)]
    source = CONVERSATION + "\n".join(lines)
    last = [f"<Response {len(asked)}>: {response}" for response in question.responses]
    read, whole = ranker.encode(source, ["\n".join([*earlier, text]) for text in last])
    return read, [_shortened(ranker, source, earlier, text) if encoded.cut else encoded for text, encoded in zip(last, whole, strict=True)]


def _shortened(ranker: PairRanker, source: str, earlier: Sequence[str], last: str) -> Encoded:
    """A candidate with as many of the newest earlier answers as leave room for the last answer; possibly none."""
    for oldest in range(1, len(earlier) + 1):
        _, (encoded,) = ranker.encode(source, ["\n".join([*earlier[oldest:], last])])
        if not encoded.cut:
            break
    return replace(encoded, cut=True)


def _answer(question: Question, logits: Mapping[Pair, float], cut: Sequence[float]) -> Answer:
    scores = np.zeros((len(question.responses), len(question.responses)))
    differences = []
    for i, j in question.pairs:
        if question.responses[i] == question.responses[j]:
            continue
        shown_orders = [sign * logits[pair] for sign, pair in ((1, (i, j)), (-1, (j, i))) if pair in logits]
        scores[i, j] = np.mean(shown_orders)
        scores[j, i] = -scores[i, j]
        if len(shown_orders) == 2:
            first, second = sigmoid(np.array(shown_orders))
            differences.append(float(first - second))
    return Answer(sigmoid(scores), {"oracle/position_bias": differences, "oracle/truncated_inputs": cut})
