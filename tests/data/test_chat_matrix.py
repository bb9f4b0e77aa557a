"""Tokenizers times layouts: prompt and response are the tokens of ``apply_chat_template`` on the whole chat, up to the first end token.

The exceptions stand in the table of ``raypref.data.tokenization``; each is tested here or in ``test_tokenization``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from raypref.data.chats import Chat
from raypref.data.config import DataConfig
from raypref.data.demonstrations import load_demonstrations
from raypref.data.examples import ExampleBuilder
from raypref.data.given_preferences import load_preferences
from raypref.data.policy_facts import PolicyFacts
from raypref.data.revision import Reviser
from raypref.data.tokenization import PolicyTokenizer
from raypref.errors import DataError
from raypref.losses.base import Loss
from raypref.losses.dpo import DPO
from raypref.losses.kto import KTO
from raypref.losses.sppo import SPPO
from raypref.losses.srpo import SRPO
from raypref.types import Example, Prompt, Response, Rollout
from tests.data.chat_tokenizers import KINDS, facts_of_kind

Turns = list[dict[str, str]]

ASKED, CHOSEN, REJECTED, THIRD = "The capital of France?", " Paris, because so.\n", "Hello\nno", "not Paris"
EARLIER = [("user", "Hello"), ("assistant", "Why so?")]
NO_SYSTEM = {"Gemma: the end that the tokenizer does not call one"}
NO_END = {"no end", "always asks"}


def turns(*pairs: tuple[str, str]) -> Turns:
    return [{"role": role, "content": content} for role, content in pairs]


@dataclass(frozen=True)
class Layout:
    """A record, and the chat and answers that it means."""

    record: dict[str, Any]
    chat: Turns
    answers: tuple[str, ...]
    type: str = "preferences"
    config: tuple[tuple[str, Any], ...] = ()
    loss: Loss = field(default_factory=DPO)
    partner: tuple[dict[str, Any], ...] = ()
    """Another record, whose answer KTO takes as a mismatched one, behind the record's own."""


USER = turns(("user", ASKED))
HISTORY = turns(*EARLIER, ("user", ASKED))
SYSTEM = turns(("system", "Be brief."), ("user", ASKED))


def whole(chat: Turns, answer: str) -> Turns:
    return [*chat, {"role": "assistant", "content": answer}]


HH = "\n\nHuman: Hello\n\nAssistant: Why so?\n\nHuman: " + ASKED + "\n\nAssistant:"
POST = {"subreddit": "r/x", "title": "Why", "post": "The capital"}
TLDR = (
    "Below is a reddit POST and the corresponding SUBREDDIT and TITLE. "
    "Write a both precise and concise summary of the contents of the POST."
    "\nSUBREDDIT: r/x\nTITLE: Why\nPOST: The capital\nTL;DR:"
)
MISMATCHED = ({"prompt": "Why so?", "completion": "no", "label": False},)
LAYOUTS = {
    "pair of texts": Layout({"prompt": ASKED, "chosen": CHOSEN, "rejected": REJECTED}, USER, (CHOSEN, REJECTED)),
    "pair of chats": Layout({"chosen": whole(USER, CHOSEN), "rejected": whole(USER, REJECTED)}, USER, (CHOSEN, REJECTED)),
    "with history": Layout({"chosen": whole(HISTORY, CHOSEN), "rejected": whole(HISTORY, REJECTED)}, HISTORY, (CHOSEN, REJECTED)),
    "with system": Layout({"chosen": whole(SYSTEM, CHOSEN), "rejected": whole(SYSTEM, REJECTED)}, SYSTEM, (CHOSEN, REJECTED)),
    "chat prompt": Layout({"prompt": HISTORY, "chosen": whole([], CHOSEN), "rejected": whole([], REJECTED)}, HISTORY, (CHOSEN, REJECTED)),
    "UltraFeedback binarized": Layout(
        {"prompt": ASKED, "chosen": whole(USER, CHOSEN), "rejected": whole(USER, REJECTED), "score_chosen": 8.0, "score_rejected": 6.0},
        USER,
        (CHOSEN, REJECTED),
    ),
    "HH transcripts": Layout({"chosen": f"{HH} Paris", "rejected": f"{HH} no"}, HISTORY, ("Paris", "no")),
    "TL;DR": Layout(
        {"info": POST, "summaries": [{"text": " no"}, {"text": " Paris is so"}], "choice": 1},
        turns(("user", TLDR)),
        (" Paris is so", " no"),
        config=(("template", "tldr"),),
    ),
    "ranking": Layout(
        {"prompt": ASKED, "responses": [REJECTED, THIRD, CHOSEN], "ranking": [2, 1, 0]}, USER, (CHOSEN, THIRD, REJECTED), loss=SPPO()
    ),
    "unpaired": Layout({"prompt": ASKED, "completion": CHOSEN, "label": True}, USER, (CHOSEN,), loss=KTO(), partner=MISMATCHED),
    "demonstration": Layout({"prompt": ASKED, "response": CHOSEN}, USER, (CHOSEN,), type="demonstrations"),
    "demonstration with system": Layout({"prompt": SYSTEM, "response": CHOSEN}, SYSTEM, (CHOSEN,), type="demonstrations"),
}


def section(layout: Layout) -> DataConfig:
    return DataConfig(type=layout.type, shuffle=False, **dict(layout.config))


def load(layout: Layout, facts: PolicyFacts) -> Example:
    config = section(layout)
    if layout.type == "demonstrations":
        (example,) = load_demonstrations(config, facts, 0, records=[layout.record])
    else:
        builder = ExampleBuilder.of_run(layout.loss, config, facts)
        made = load_preferences(
            config, facts, 0, loss=layout.loss, selection=None, builder=builder, records=[layout.record, *layout.partner]
        )
        example = made.examples[0]
    return example


def templated(facts: PolicyFacts, chat: Turns, *, asks: bool) -> list[int]:
    ids: list[int] = facts.tokenizer.apply_chat_template(chat, add_generation_prompt=asks, return_dict=False)
    return ids


def tokens_and_mask(prompt: NDArray[np.int32], response: NDArray[np.int32]) -> tuple[list[int], list[int]]:
    return [*prompt.tolist(), *response.tolist()], [0] * len(prompt) + [1] * len(response)


def expected(facts: PolicyFacts, layout: Layout, answer: str) -> tuple[list[int], list[int]]:
    """By the template alone: everything up to and including the first end token behind the prompt."""
    asked, full = templated(facts, layout.chat, asks=True), templated(facts, whole(layout.chat, answer), asks=False)
    assert full[: len(asked)] == asked
    length = next(k for k in range(len(asked), len(full)) if full[k] in facts.end_token_ids) + 1
    return full[:length], [0] * len(asked) + [1] * (length - len(asked))


def expected_without_end(facts: PolicyFacts, layout: Layout, answer: str) -> tuple[list[int], list[int]]:
    """Exception: the template writes no end token; the answer, as a part of the whole's text, and the tokenizer's end."""
    tokenizer = facts.tokenizer
    asked = templated(facts, layout.chat, asks=True)
    prompt = tokenizer.apply_chat_template(layout.chat, tokenize=False, add_generation_prompt=True)
    text = tokenizer.apply_chat_template(whole(layout.chat, answer), tokenize=False)
    up_to = text[: text.index(answer, len(prompt)) + len(answer)]
    full = [*tokenizer(up_to, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    assert full[: len(asked)] == asked
    return full, [0] * len(asked) + [1] * (len(full) - len(asked))


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("kind", KINDS)
def test_tokens_and_loss_mask_are_the_templates(kind: str, layout: Layout) -> None:
    facts = facts_of_kind(kind)
    if kind in NO_SYSTEM and layout.chat[0]["role"] == "system":
        with pytest.raises(DataError, match=r"record 0 .*: the tokenizer's chat template refuses this chat: System role not supported"):
            load(layout, facts)
        return
    example = load(layout, facts)
    of_answer = expected_without_end if kind in NO_END else expected
    assert [tokens_and_mask(*each) for each in zip(example.prompt_ids, example.response_ids, strict=True)][: len(layout.answers)] == [
        of_answer(facts, layout, answer) for answer in layout.answers
    ]
    assert all(ids[-1] in facts.end_token_ids and not np.isin(ids[:-1], facts.end_token_ids).any() for ids in example.response_ids)


EXPECTED = {False: expected, True: expected_without_end}


def sampled(kind: str, layout: Layout) -> Rollout:
    """What the run's engines would give: the template's tokens behind the prompt, and their text as ``Engine`` decodes it."""
    facts = facts_of_kind(kind)
    prompt_ids = np.array(templated(facts, layout.chat, asks=True), dtype=np.int32)
    chat = tuple((turn["role"], turn["content"]) for turn in layout.chat) if len(layout.chat) > 1 else ()
    responses = []
    for answer in layout.answers:
        tokens, mask = EXPECTED[kind in NO_END](facts, layout, answer)
        ids = np.array(tokens[mask.index(1) :], dtype=np.int32)
        text = facts.tokenizer.decode(ids[:-1].tolist(), skip_special_tokens=True)
        responses.append(Response(ids, np.zeros(len(ids), dtype=np.float32), text, "stop"))
    return Rollout(Prompt(0, "0", layout.chat[-1]["content"], prompt_ids, chat), tuple(responses), 0)


@pytest.mark.parametrize("loss", [DPO(), SRPO()], ids=["dpo", "srpo"])
@pytest.mark.parametrize("layout", [LAYOUTS["pair of texts"], LAYOUTS["with history"], LAYOUTS["HH transcripts"]])
@pytest.mark.parametrize("kind", KINDS)
def test_given_and_sampled_data_of_the_same_texts_give_the_same_tokens(kind: str, layout: Layout, loss: Loss) -> None:
    """SRPO's examples hold the answers in the prompts of revisions, too, as turns of the chat."""
    facts = facts_of_kind(kind)
    config = DataConfig(type="preferences", shuffle=False, template="chat")
    builder = ExampleBuilder.of_run(loss, config, facts)
    (given,) = load_preferences(config, facts, 0, loss=loss, selection=None, builder=builder, records=[layout.record]).examples
    built = builder.build(sampled(kind, layout), (0, 1), given.targets[:2], None)
    assert built is not None
    for name in ("prompt_ids", "response_ids"):
        assert [ids.tolist() for ids in getattr(built, name)] == [ids.tolist() for ids in getattr(given, name)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_control_token_in_a_users_text_is_text(kind: str) -> None:
    """No control token but those that the template writes: as many as for a text without any. The text can be read back."""
    facts = facts_of_kind(kind)
    tokenizer = PolicyTokenizer(DataConfig(), facts)
    control = [token.content for token in facts.tokenizer.added_tokens_decoder.values() if token.special]
    ids = {facts.tokenizer.convert_tokens_to_ids(name) for name in control} - {facts.tokenizer.unk_token_id}
    for asked in (f"The{name} capital {name}{name}" for name in control if name != "<unk>"):
        shown = tokenizer.prompt_ids(asked, "p:1").tolist()
        plain = tokenizer.prompt_ids("The capital ", "p:1").tolist()
        assert [k for k in shown if k in ids] == [k for k in plain if k in ids]
        if kind != "Unigram":
            assert "".join(asked.split()) in "".join(facts.tokenizer.decode(shown).split())


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "Unigram"])
def test_a_template_written_token_keeps_its_surroundings(kind: str) -> None:
    """Around a control token that is text, every other token is that of the same chat with another text in its place."""
    facts = facts_of_kind(kind)
    tokenizer = PolicyTokenizer(DataConfig(), facts)
    name = facts.tokenizer.eos_token
    got = facts.tokenizer.convert_ids_to_tokens(tokenizer.prompt_ids(f"Why so? {name} Hello", "p:1").tolist())
    usual = facts.tokenizer.convert_ids_to_tokens(tokenizer.prompt_ids("Why so? Hello", "p:1").tolist())
    before = next(k for k, (a, b) in enumerate(zip(got, usual, strict=False)) if a != b)
    behind = next(k for k, (a, b) in enumerate(zip(got[::-1], usual[::-1], strict=False)) if a != b)
    assert before + behind >= len(usual) - 2


def test_revisions_of_a_chat_keep_their_tools() -> None:
    facts = facts_of_kind("ChatML, two ends")
    prompt = PolicyTokenizer(DataConfig(), facts).prompt_ids(Chat.of([("user", ASKED)]), "p:1")
    revised = Reviser(DataConfig(template="chat"), facts).revise(Prompt(0, "0", ASKED, prompt), "Paris<|im_end|>")
    text = facts.tokenizer.decode(revised.token_ids.tolist())
    assert "Paris<|im_end|><|im_end|>" in text, "what the policy spelt out is text; the template's end follows"
    assert revised.token_ids.tolist().count(2) == 3
