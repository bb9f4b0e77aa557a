"""The preference model of the INPO paper, RLHFlow/pair-preference-model-LLaMA3-8B: a language model that answers "A" or "B".

A (K, K) matrix from K responses; only the comparisons that are asked for are computed, each in both orders.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import PrivateAttr

from raypref.errors import ConfigError
from raypref.oracles.base import Oracle, Question

CONTEXT = (
    "\n{% for message in messages %}{% if loop.index0 % 2 == 0 %}\n\n<turn> user\n {{ message['content'] }}"
    "{% else %}\n\n<turn> assistant\n {{ message['content'] }}{% endif %}{% endfor %}\n\n\n"
)
"""How the model was shown the conversation in its training (its model card)."""
QUESTION = "[CONTEXT] {context} [RESPONSE A] {a} [RESPONSE B] {b} \n"
"""Likewise, the two responses; the next token is the verdict."""


class PairPreferenceModel(Oracle):
    """P(y > y') = (p("A" given y, y') + p("B" given y', y)) / 2, p the softmax over the two answers' logits alone.

    Source: the model card of RLHFlow/pair-preference-model-LLaMA3-8B; Dong et al., "RLHF Workflow" (arXiv 2405.07863). Both orders are
    asked, because the model leans towards a position. A prompt of several turns is shown as one user turn. Sequences are scored one by
    one, without padding, so that a verdict depends on nothing else.
    """

    type: str = "examples.inpo_llama3_8b.preference_model:PairPreferenceModel"
    path: str = "RLHFlow/pair-preference-model-LLaMA3-8B"
    """A Hugging Face model directory or a hub name; its tokenizer has a chat template, and "A" and "B" are single tokens."""
    device: str = "auto"
    """auto: cuda where there is one."""

    _model: Any = PrivateAttr(default=None)
    _tokenizer: Any = PrivateAttr(default=None)
    _answers: list[int] = PrivateAttr(default_factory=list)

    def load(self) -> None:
        """Load the model: bfloat16 on a GPU, float32 elsewhere.

        Raises:
            ConfigError: "A" or "B" is not one token of the tokenizer.
        """
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        device = ("cuda" if torch.cuda.is_available() else "cpu") if self.device == "auto" else self.device
        dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
        self._tokenizer = AutoTokenizer.from_pretrained(self.path)
        self._answers = [self._answer(letter) for letter in "AB"]
        self._model = AutoModelForCausalLM.from_pretrained(self.path, dtype=dtype).to(device).eval()

    def _answer(self, letter: str) -> int:
        ids = self._tokenizer.encode(letter, add_special_tokens=False)
        if len(ids) != 1:
            raise ConfigError(f"oracle.path: the tokenizer of {self.path!r} makes {len(ids)} tokens of {letter!r}; one is needed")
        return int(ids[0])

    def compare(self, questions: Sequence[Question]) -> list[NDArray[np.float64]]:
        if self._model is None:
            self.load()
        return [self._matrix(question) for question in questions]

    def _matrix(self, question: Question) -> NDArray[np.float64]:
        values = np.full((len(question.responses), len(question.responses)), 0.5)
        for i, j in question.pairs:
            first = self._says_a(question.prompt, question.responses[i], question.responses[j])
            second = self._says_a(question.prompt, question.responses[j], question.responses[i])
            values[i, j] = (first + 1.0 - second) / 2.0
            values[j, i] = 1.0 - values[i, j]
        return values

    def _says_a(self, prompt: str, a: str, b: str) -> float:
        """Chance of the verdict "A"."""
        import torch

        ids = torch.tensor([self.token_ids(prompt, a, b)], device=self._model.device)
        with torch.inference_mode():
            logits = self._model(ids).logits[0, -1, self._answers].double()
        return float(torch.softmax(logits, dim=0)[0])

    def token_ids(self, prompt: str, a: str, b: str) -> list[int]:
        """What the model reads; no second begin-of-text token in front of the template's, as on the model card."""
        context = self._tokenizer.apply_chat_template([{"role": "user", "content": prompt}], chat_template=CONTEXT, tokenize=False)
        asked = [{"role": "user", "content": QUESTION.format(context=context, a=a, b=b)}]
        text = self._tokenizer.apply_chat_template(asked, tokenize=False).replace(self._tokenizer.bos_token, "")
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return ids
