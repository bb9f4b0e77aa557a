"""Prompts that ask for a better answer than the one they hold: what turns a policy into its own improver.

    x -> prompt(x),        (x, y) -> prompt(x) with the earlier answer y put in by ``data.template``

Training (``Loss.revisions``), ``raypref generate`` and evaluation all take these prompts from here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from raypref.data.config import DataConfig
from raypref.data.templates import template_of
from raypref.data.text import policy_text, tokenize
from raypref.errors import ConfigError
from raypref.types import Prompt


class Reviser:
    """Makes prompts for revisions, rendered and tokenised like the first ones."""

    def __init__(self, config: DataConfig, tokenizer: Any) -> None:
        """
        Args:
            config: the data section; its ``template`` is needed.
            tokenizer: the policy's.

        Raises:
            ConfigError: there is no template, or a chat's in a run without a chat template.
        """
        if config.template is None:
            raise ConfigError("data.template: required for revisions: tldr, xsum, chat, or a text with {prompt} and {answer}")
        if config.template == "chat" and not config.chat_template:
            raise ConfigError("data.template: 'chat' needs data.chat_template=true; for a model that continues text give one of your own")
        self._config = config
        self._template = template_of(config.template)
        self._tokenizer = tokenizer

    def within(self, tokens: int) -> Callable[[Prompt, str], Prompt | None]:
        """``revise`` where the new prompt has at most ``tokens``, else None."""

        def revise(prompt: Prompt, answer: str) -> Prompt | None:
            revised = self.revise(prompt, answer)
            return revised if len(revised.token_ids) <= tokens else None

        return revise

    def revise(self, prompt: Prompt, answer: str) -> Prompt:
        """The prompt that asks for a revision of ``answer``.

        The id and the index stay those of the first prompt; ``text`` too, which is the question that an oracle is shown.
        """
        chat = [{"role": role, "content": content} for role, content in prompt.chat]
        revised = self._template.revise(chat or prompt.text, answer)
        text = policy_text(revised, self._config, self._tokenizer, f"prompt {prompt.id!r}, revised")
        (ids,) = tokenize([text], self._config, self._tokenizer)
        return Prompt(prompt.index, prompt.id, prompt.text, np.asarray(ids, dtype=np.int32), prompt.chat)
