"""Prompts that hold an answer and ask for a better one, so that the policy improves its own answers.

    prompt x, answer y -> ``data.template`` -> prompt x_y, rendered and tokenised like x

Used by training (``Loss.revisions``), ``raypref generate`` and evaluation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from raypref.data.config import DataConfig
from raypref.data.policy_facts import PolicyFacts
from raypref.data.record_prompts import source_of
from raypref.data.templates import template_of
from raypref.data.tokenization import PolicyTokenizer
from raypref.errors import ConfigError
from raypref.types import Prompt, Response


class Reviser:
    """Makes prompts for revisions, rendered and tokenised like first prompts."""

    def __init__(self, config: DataConfig, facts: PolicyFacts) -> None:
        """
        Args:
            config: the data section; it must have a ``template``.
            facts: the policy's tokenizer and end tokens.

        Raises:
            ConfigError: there is no template, or the template is ``chat`` and ``data.chat_template`` is off.
        """
        if config.template is None:
            raise ConfigError("data.template: required for revisions: tldr, xsum, chat, or a text with {prompt} and {answer}")
        if config.template == "chat" and not config.chat_template:
            raise ConfigError(
                "data.template: 'chat' needs data.chat_template=true; for a model that continues plain text, give a text with {prompt} "
                "and {answer}"
            )
        self._template = template_of(config.template)
        self._facts = facts
        self._tokenizer = PolicyTokenizer(config, facts)

    def within(self, tokens: int) -> Callable[[Prompt, str], Prompt | None]:
        """``revise`` as a function that returns None where the new prompt has more than ``tokens`` tokens."""

        def revise(prompt: Prompt, answer: str) -> Prompt | None:
            revised = self.revise(prompt, answer)
            return revised if len(revised.token_ids) <= tokens else None

        return revise

    def text_of(self, response: Response) -> str:
        """The text of a given response as it would be decoded, had the policy sampled it: the same tokens are revised alike."""
        return self._facts.decoded(response.token_ids)

    def revise(self, prompt: Prompt, answer: str) -> Prompt:
        """The prompt that asks for a revision of ``answer``.

        It keeps the first prompt's id and index, and its ``text``, which is the question that an oracle is shown.
        """
        earlier = self._tokenizer.as_text(self._tokenizer.turn_content(answer))
        revised = self._template.revise(source_of(prompt), earlier)
        return replace(prompt, token_ids=self._tokenizer.prompt_ids(revised, f"prompt {prompt.id!r}, revised"))
