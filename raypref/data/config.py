"""The ``data`` section of the config."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from raypref.data.templates import template_of
from raypref.errors import ConfigError
from raypref.registry import Section, UserPath

Layout = Literal["auto", "pair", "conversations", "transcripts", "numbered_pair", "choice", "best", "ranking", "scores", "unpaired"]


class DataConfig(Section):
    """What the policy is trained on."""

    type: Literal["prompts", "demonstrations", "preferences"] = "prompts"
    """prompts: the policy answers them; demonstrations: given answers (supervised fine-tuning); preferences: given answers and which is
    better, as pairs, best-of-n sets, rankings or scores (``raypref.data.layouts`` lists the layouts that are recognised)."""
    path: UserPath | None = None
    """A data file (JSON lines, JSON, Parquet, CSV), a directory of them, or the name of a ``datasets`` data set. None: the data is passed
    to ``run``."""
    split: str = "train"
    """Split of a directory or of a hub data set, by the rules of ``datasets``; a single file has none."""
    subset: str | None = None
    """Configuration of a data set that has several, as in ``datasets.load_dataset(path, subset)``."""
    layout: Layout = "auto"
    """How a record of preferences is read (``raypref.data.layouts`` lists the layouts). auto: by its fields; a record that fits several
    layouts is refused."""
    on_bad_record: Literal["refuse", "skip"] = "refuse"
    """A record that cannot be used: a broken line, a missing field, an empty answer. refuse: the run does not start; skip: it is left out
    and counted, and the first ones are logged."""
    prompt_field: str = "prompt"
    """Field with the prompt: text, or a list of chat messages."""
    response_field: str = "response"
    """Field with the answer (demonstrations)."""
    chosen_field: str = "chosen"
    """Field with the chosen (better) answer of a pair: text, or chat messages with or without the prompt's turns (preferences)."""
    rejected_field: str = "rejected"
    """Field with the rejected (worse) answer of a pair (preferences)."""
    responses_field: str = "responses"
    """Field with a list of answers; the record also has one of the next three fields (preferences)."""
    ranking_field: str = "ranking"
    """Field with the numbers of the answers, from 0, best first (preferences)."""
    scores_field: str = "scores"
    """Field with a number for each answer; higher is better, equal numbers are a tie (preferences)."""
    best_field: str = "best"
    """Field with the number of the best answer, from 0; the other answers are not compared with each other (preferences)."""
    completion_field: str = "completion"
    """Field with the only answer of an unpaired record (preferences): text, or chat messages with or without the prompt's turns."""
    label_field: str = "label"
    """Field that says whether the answer of an unpaired record is desirable: true or false."""
    verdicts: Literal["hard", "soft"] = "hard"
    """What a given verdict means. hard: P(y > y') is 1, 1/2 or 0; soft: P(y > y') = sigmoid(score_scale (s - s')), from scores s."""
    score_scale: PositiveFloat = 1.0
    """Nats per unit of score; only with ``verdicts: soft``."""
    tools_field: str = "tools"
    """Field with the tools that the policy may call: a list of descriptions, as the chat template reads them, or such a list as JSON."""
    dropped_message_keys: tuple[str, ...] = ()
    """Keys of chat messages that are not for the policy (a time, a language). Any other key must be written by the chat template."""
    ignored_fields: tuple[str, ...] = ()
    """Fields that are not for the policy although their names belong to a prompt: system, system_prompt, history; beside ``instruction``
    also input and context. A record with another one of them, whose text is not in the prompt, is refused."""
    template: str | None = None
    """How a prompt asks for the revision of an answer, and how a prompt is composed for a record without one: ``tldr`` or ``xsum`` (from
    the SRPO paper), ``chat``, or a text with {prompt} and {answer}. Only losses and evaluations with revisions need it."""
    frame: str | None = None
    """A text with {prompt} that stands around each prompt that is a text, for the policy alone: oracles, exports and the comparison of
    prompts see the bare prompt. For base models that were tuned on such a frame ("### Instruction: ... ### Response:"). Not with
    ``template``, which frames prompts of its own."""
    id_field: str = "id"
    """Field with the record's id; a record without it is named by its number, from 0."""
    chat_template: bool = True
    """Apply the tokenizer's chat template. Off for models that continue plain text."""
    empty_prompts: bool = False
    """Take the prompt ``""``, for texts from nothing (SPO's TinyStories): the policy is given what its tokenizer puts before a text,
    one token at least. Only with ``chat_template: false``."""
    special_tokens: Literal["text", "allow", "refuse"] = "text"
    """Control tokens that a prompt or an answer spells out, such as ``<|im_end|>``. text: they are plain text to the policy; allow: they
    are the tokens, as in prompts rendered beforehand; refuse: the run does not start. An end token behind an answer is always one."""
    overlong: Literal["drop", "refuse"] = "drop"
    """A prompt that leaves no room for ``rollout.max_tokens``. drop: it is left out and counted; refuse: the run does not start."""
    identical: Literal["drop", "keep", "refuse"] = "drop"
    """A comparison of an answer with itself, such as a pair whose chosen and rejected answers are the same tokens (preferences): it says
    nothing about which answer is better. drop: it is left out and counted; keep: it is trained on, which a loss that also raises the
    likelihood of the chosen answer may want; refuse: the run does not start."""
    shuffle: bool = True
    """Shuffle once with ``seed``; iterations then take consecutive, disjoint parts."""
    passes: PositiveInt = 1
    """How often a run goes through given data (demonstrations, preferences); with ``shuffle`` each pass is in another order. Iterations
    divide all passes among themselves: with as many of them as passes, the policy is evaluated and saved after each pass.
    ``learner.epochs`` goes through an iteration's examples again within the iteration."""
    held_out: UserPath | None = None
    """Data for evaluation, never trained on: a file like ``path``, of prompts for win rates. With given data its records may hold answers,
    on which the learner's loss is measured. None: the last ``held_out_prompts`` records of ``path``. Records of ``path`` with one of these
    prompts are left out and counted."""
    held_out_split: str | None = None
    """Split of ``held_out``; default: ``split``."""
    held_out_prompts: Annotated[int, Field(ge=0)] = 0
    """Number of prompts, or records of given data, for evaluation; 0: none, or all of ``held_out`` if that is given."""

    @model_validator(mode="after")
    def _known_template(self) -> Self:
        if self.template is not None:
            template_of(self.template)
        if self.frame is not None and (self.frame.count("{prompt}") != 1 or self.template is not None):
            why = "give a text with one {prompt}" if self.template is None else "data.template makes the prompts; give one of the two"
            raise ConfigError(f"data.frame: {self.frame!r}; {why}")
        if self.empty_prompts and self.chat_template:
            raise ConfigError("data.empty_prompts: true, but a chat template needs a question; set data.chat_template=false")
        return self
