"""How fast a generative preference model judges, compared with the loop of its model card.

Pairs per second on one core, both orders, over those of the usual loop: the published steps for one input at a time, with the logits of
all positions. The same model on both sides: a random Llama in float32, hidden 256, six layers, vocabulary 32,000. Lengths are log-normal
like UltraFeedback's: a prompt's median is 120 tokens (sigma 0.9), a response's 270 (sigma 0.6). Seconds are CPU seconds of the process.

How much the loop wastes on the head depends on the head's share of the matrix products: 60% here, 7% in Llama-3-8B. A second result,
without a bar, is for a model (hidden 768, two layers) in which the head has 7%.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.figure import Figure
from raypref.oracles.base import Question
from raypref.oracles.pairwise_lm import PairwiseLM
from raypref.selection.base import all_pairs
from tests.oracles.pairrm_checkpoint import NoServices
from tests.oracles.pairwise_checkpoint import WORDS, make_checkpoint

PROMPTS = 1
"""In one sample; each sample has others."""
RESPONSES = 5
SAMPLES = 5
CONTEXT = (
    "\n{% for message in messages %}{% if loop.index0 % 2 == 0 %}\n\n<turn> user\n {{ message['content'] }}"
    "{% else %}\n\n<turn> assistant\n {{ message['content'] }}{% endif %}{% endfor %}\n\n\n"
)
INPUT = "[CONTEXT] {context} [RESPONSE A] {a} [RESPONSE B] {b} \n"


class CardLoop:
    """The steps of RLHFlow/pair-preference-model-LLaMA3-8B's model card."""

    def __init__(self, path: Path) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self._model: Any = AutoModelForCausalLM.from_pretrained(path).eval()
        self._tokenizer: Any = AutoTokenizer.from_pretrained(path)
        self._answers = [self._tokenizer.encode(letter, add_special_tokens=False)[0] for letter in "AB"]

    def preference(self, prompt: str, first: str, second: str) -> float:
        """P(first > second), both orders averaged."""
        context = self._tokenizer.apply_chat_template([{"role": "user", "content": prompt}], chat_template=CONTEXT, tokenize=False)
        return (self._says_a(context, first, second) + 1.0 - self._says_a(context, second, first)) / 2.0

    def _says_a(self, context: str, a: str, b: str) -> float:
        import torch

        message = [{"role": "user", "content": INPUT.format(context=context, a=a, b=b)}]
        text = self._tokenizer.apply_chat_template(message, tokenize=False).replace(self._tokenizer.bos_token, "")
        ids = self._tokenizer.encode(text, return_tensors="pt", add_special_tokens=False)
        with torch.no_grad():
            logits = self._model(ids).logits
        return float(torch.softmax(logits[0, -1, self._answers], dim=0)[0])


def figures() -> list[Figure]:
    """Medians of sides that take turns, with torch's number of threads; both sides must give the same verdicts."""
    return [
        _figure("oracle_pairwise_lm", 2.0, hidden=256, layers=6, vocabulary=32000),
        _figure("oracle_pairwise_lm_small_head", 0.0, hidden=768, layers=2, vocabulary=1560),
    ]


def _figure(name: str, bar: float, **model: int) -> Figure:
    draw = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        path = make_checkpoint(Path(folder), positions=8192, **model)
        ours, usual = PairwiseLM(path=str(path), max_tokens=8192, device="cpu"), CardLoop(path)
        ours.load(NoServices())
        samples = [_sample(ours, usual, [_question(draw, k) for k in range(PROMPTS)]) for _ in range(SAMPLES)]
    ours_s, usual_s = (median(side) for side in zip(*samples, strict=True))
    pairs = PROMPTS * len(all_pairs(RESPONSES))
    unit = f"pairs per second ({pairs / ours_s:.1f}) over those of the model card's loop ({pairs / usual_s:.1f})"
    return Figure(name, median(usual_s / ours_s for ours_s, usual_s in samples), bar, unit, SAMPLES)


def _sample(ours: PairwiseLM, usual: CardLoop, questions: Sequence[Question]) -> tuple[float, float]:
    """CPU seconds of both sides."""
    start = time.process_time()
    answers = ours.compare(questions)
    between = time.process_time()
    expected = [[usual.preference(q.prompt, q.responses[i], q.responses[j]) for i, j in q.pairs] for q in questions]
    end = time.process_time()
    for question, answer, chances in zip(questions, answers, expected, strict=True):
        np.testing.assert_allclose([answer.values[pair] for pair in question.pairs], chances, atol=1e-4)
    return between - start, end - between


def _question(draw: np.random.Generator, number: int) -> Question:
    prompt, *responses = (
        _text(draw, tokens) for tokens in (draw.lognormal(np.log(120), 0.9), *draw.lognormal(np.log(270), 0.6, RESPONSES))
    )
    return Question(str(number), prompt, tuple(responses), tuple(all_pairs(RESPONSES)))


def _text(draw: np.random.Generator, tokens: float) -> str:
    return " ".join(draw.choice(WORDS, max(1, round(tokens))))
