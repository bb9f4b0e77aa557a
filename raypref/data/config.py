"""The ``data`` section of the config."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveFloat, model_validator

from raypref.data.templates import template_of
from raypref.registry import Section


class DataConfig(Section):
    """What the policy is trained on."""

    type: Literal["prompts", "demonstrations", "preferences"] = "prompts"
    """``prompts``: the policy answers them; ``demonstrations``: given answers (supervised fine-tuning); ``preferences``: given answers
    with verdicts: pairs, best-of-n sets, rankings, scores (``raypref.data.layouts`` lists the layouts that are recognised)."""
    path: str | None = None
    """A JSONL or Parquet file, a directory of them, or the name of a ``datasets`` data set. None: passed as objects to ``run``."""
    split: str = "train"
    """Split of a hub data set."""
    prompt_field: str = "prompt"
    """Field with the prompt: text, or a list of chat messages."""
    response_field: str = "response"
    """Field with the answer (demonstrations)."""
    chosen_field: str = "chosen"
    """Field with the better answer of a pair: text, or chat messages with or without the prompt's turns (preferences)."""
    rejected_field: str = "rejected"
    """Field with the worse answer of a pair (preferences)."""
    responses_field: str = "responses"
    """Field with a list of answers, beside one of the next three (preferences)."""
    ranking_field: str = "ranking"
    """Field with the numbers of the answers, from 0, best first (preferences)."""
    scores_field: str = "scores"
    """Field with a number for each answer, higher is better, equal ones are a tie (preferences)."""
    best_field: str = "best"
    """Field with the number of the best answer, from 0; the others are not compared with each other (preferences)."""
    verdicts: Literal["hard", "soft"] = "hard"
    """What a given verdict says: hard, P(y > y') is 1, 1/2 or 0; soft, P(y > y') = sigmoid(score_scale (s - s')) where there are scores."""
    score_scale: PositiveFloat = 1.0
    """Nats for one unit of score; only with ``verdicts: soft``."""
    template: str | None = None
    """How an earlier answer is put in the prompt for its revision, and how a record without a prompt becomes one: ``tldr`` or ``xsum`` (the
    SRPO paper's), ``chat``, or a text with {prompt} and {answer}. Needed by losses and evaluations with revisions alone."""
    id_field: str = "id"
    """Field that names a record; without it the record's number does."""
    chat_template: bool = True
    """Apply the tokenizer's chat template. Off for models that continue plain text."""
    overlong: Literal["drop", "refuse"] = "drop"
    """A prompt that leaves no room for ``rollout.max_tokens``: leave it out and count it, or stop before anything starts."""
    shuffle: bool = True
    """Shuffle once with ``run.seed``; iterations then take consecutive, disjoint parts."""
    held_out: str | None = None
    """Prompts for evaluation, never trained on: a file like ``path``. None: ``held_out_prompts`` are set apart from the end of ``path``."""
    held_out_prompts: Annotated[int, Field(ge=0)] = 0
    """How many prompts evaluation uses; 0: none, or all of ``held_out`` where that is given."""

    @model_validator(mode="after")
    def _known_template(self) -> Self:
        if self.template is not None:
            template_of(self.template)
        return self
