"""Text to tokens beyond the chat matrix: end tokens, plain text, control tokens in data, and what is refused."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from raypref.data.chats import Chat
from raypref.data.config import DataConfig
from raypref.data.control_tokens import ControlTokens
from raypref.data.demonstrations import load_demonstrations
from raypref.data.policy_facts import PolicyFacts, end_tokens
from raypref.data.prompts import load_prompts
from raypref.data.revision import Reviser
from raypref.data.tokenization import PolicyTokenizer
from raypref.errors import DataError
from raypref.types import Prompt
from tests.data.chat_tokenizers import CHATML, KINDS, facts_of_kind, sentence_piece

CHAT = "ChatML, two ends"
PLAIN = DataConfig(chat_template=False)


def given(facts: PolicyFacts, answer: str, prompt: str = "hi", **config: Any) -> tuple[str, str]:
    """Prompt and response, decoded with their special tokens."""
    policy = PolicyTokenizer(DataConfig(**config), facts)
    ((asked, (response,)),) = policy.encode_given([policy.given_text(prompt, [answer], "p.jsonl:1")])
    return facts.tokenizer.decode(asked.tolist()), facts.tokenizer.decode(response.tolist())


def with_template(facts: PolicyFacts, template: str) -> PolicyFacts:
    import copy

    tokenizer = copy.deepcopy(facts.tokenizer)
    tokenizer.chat_template = template
    return PolicyFacts(tokenizer, facts.context_tokens, facts.end_token_ids)


@pytest.mark.parametrize("named", [(2, 0), (0, 2), (0,)])
@pytest.mark.parametrize("answer", ["yes", "yes<|im_end|>", "yes<|im_end|>\n", "yes<|endoftext|>", "yes<|im_end|><|endoftext|>"])
def test_an_answer_ends_with_the_templates_end_whatever_the_order(named: tuple[int, ...], answer: str) -> None:
    """<|endoftext|> 0, <|im_end|> 2; an answer that spells out its end is not ended twice."""
    tokenizer = facts_of_kind(CHAT).tokenizer
    facts = PolicyFacts(tokenizer, 64, end_tokens(tokenizer, named))
    assert given(facts, answer) == ("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n", "yes<|im_end|>")


def test_the_order_of_end_tokens() -> None:
    """The tokenizer's, those that the model names, the template's, each once."""
    tokenizer = facts_of_kind(CHAT).tokenizer
    assert end_tokens(tokenizer, ()) == end_tokens(tokenizer, (2,)) == (2,)
    assert end_tokens(tokenizer, (5, 0, 2)) == (2, 5, 0)
    neither = facts_of_kind("the end that neither names")
    assert neither.end_token_ids == (0, 2)
    assert neither.plain_end == 0
    assert facts_of_kind("always asks").end_token_ids == (2,), "<h> begins the next turn"
    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
    assert end_tokens(bare, ()) == ()
    assert PolicyFacts(bare, 8, (7, 3)).plain_end == 7


@pytest.mark.parametrize("answer", ["yes<|im_end|>no", "<|im_end|>yes", "yes<|endoftext|>\nno<|im_end|>"])
@pytest.mark.parametrize("special_tokens", ["text", "allow", "refuse"])
def test_an_end_token_inside_an_answer_is_refused(answer: str, special_tokens: str) -> None:
    with pytest.raises(DataError, match=r"p\.jsonl:1: the answer contains the end token '<\|.*\|>' at character \d+"):
        given(facts_of_kind(CHAT), answer, special_tokens=special_tokens)


@pytest.mark.parametrize("answer", ["<|im_end|>", " <|im_end|>\n", "<|endoftext|><|im_end|>"])
def test_an_answer_that_is_an_end_token_alone_is_empty(answer: str) -> None:
    with pytest.raises(DataError, match=r"p\.jsonl:1: an answer must be a text that is not empty"):
        given(facts_of_kind(CHAT), answer)


THINKS = CHATML.replace("assistant\\n' }}{% endif %}", "assistant\\n<think>\\n' }}{% endif %}")
DROPS_THOUGHTS = CHATML.replace("+ m['content'] +", "+ m['content'].split('</think>')[-1] +")


def test_a_template_that_does_not_write_the_answer_behind_its_prompt_is_refused() -> None:
    """DeepSeek-R1: the generation prompt begins a thought, and an answer is written without one."""
    message = r"p\.jsonl:1: the chat template does not write this answer behind the prompt.*<think>\\\\n'.*hi<\|im_end\|>.*yes"
    with pytest.raises(DataError, match=message.replace("\\\\\\\\", r"\\")):
        given(with_template(facts_of_kind(CHAT), THINKS), "yes")


def test_a_template_that_drops_a_part_of_the_answer_is_refused() -> None:
    facts = with_template(facts_of_kind(CHAT), DROPS_THOUGHTS)
    assert given(facts, "yes")[1] == "yes<|im_end|>"
    with pytest.raises(DataError, match=r"p\.jsonl:1: the chat template leaves a part of this answer out.*'<think>why</think>yes'"):
        given(facts, "<think>why</think>yes")


def test_a_thought_is_written_as_the_template_writes_it() -> None:
    facts = facts_of_kind("Qwen 3: an empty thought")
    assert given(facts, "yes")[1] == "<think>\n\n</think>\n\nyes<|im_end|>"
    assert given(facts, "<think>why</think>yes")[1] == "<think>\nwhy\n</think>\n\nyes<|im_end|>"


def test_a_template_that_ends_a_turn_before_the_answer_is_refused() -> None:
    """The header holds an end token: what stands behind the first end token would be lost."""
    facts = with_template(
        facts_of_kind("no generation prompt"), "{% for m in messages %}{{ m['role'] + '</s>' + m['content'] }}{% endfor %}"
    )
    with pytest.raises(DataError, match="leaves a part of this answer out, or ends before it"):
        given(facts, "yes")


def test_an_answer_that_merges_into_the_prompt_is_tokenised_alone() -> None:
    """Prompt "once up", answer "on": no word of the answer gets the space that SentencePiece puts before a text."""
    backend = Tokenizer(models.BPE({"<unk>": 0, "</s>": 1, "▁": 2, "u": 3, "p": 4, "o": 5, "n": 6, "\n": 7, "on": 8, "upon": 9, "up": 10},
                                   [("u", "p"), ("o", "n"), ("up", "on")], unk_token="<unk>"))  # fmt: skip
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    facts = PolicyFacts(PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>"), 64, (1,))
    policy = PolicyTokenizer(PLAIN, facts)
    assert facts.tokenizer("upon")["input_ids"] == [2, 9]
    ((prompt, (answer,)),) = policy.encode_given([policy.given_text("up", ["on"], "p:1")])
    assert (prompt.tolist(), answer.tolist()) == ([2, 10], [8, 1]), "not [2, 8, 1]"


def adds_eos() -> PreTrainedTokenizerFast:
    words = ["<unk>", "<s>", "</s>", "once", "upon", "a", "time"]
    backend = Tokenizer(models.WordLevel({word: k for k, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def test_a_prompt_does_not_end_where_the_tokenizer_adds_an_end() -> None:
    """<s> once upon is 1 3 4; the answer has its one end token."""
    facts = PolicyFacts(adds_eos(), 64, (2,))
    config = DataConfig(chat_template=False, shuffle=False)
    (prompt,) = load_prompts(config, facts, 8, 0, prompts=["once upon"]).train
    assert prompt.token_ids.tolist() == [1, 3, 4]
    (example,) = load_demonstrations(config, facts, 0, records=[{"prompt": "once upon", "response": " a time"}])
    assert [example.prompt_ids[0].tolist(), example.response_ids[0].tolist()] == [[1, 3, 4], [5, 6, 2]]
    revised = Reviser(DataConfig(chat_template=False, template="{prompt} {answer} once"), facts).revise(prompt, "a")
    assert revised.token_ids.tolist() == [1, 3, 4, 5, 3]


@pytest.mark.parametrize("kind", KINDS)
def test_plain_text_is_the_tokenizers_own_without_its_end(kind: str) -> None:
    facts = facts_of_kind(kind)
    policy = PolicyTokenizer(PLAIN, facts)
    ((prompt, (answer,)),) = policy.encode_given([policy.given_text("The capital is", [" Paris, so"], "p:1")])
    end = [facts.tokenizer.eos_token_id]
    both = facts.tokenizer("The capital is Paris, so")["input_ids"]
    both = both[:-1] if KINDS[kind].ends else both
    assert [*prompt.tolist(), *answer.tolist()] == [*both, *end]
    asked = facts.tokenizer("The capital is")["input_ids"]
    assert prompt.tolist() == (asked[:-1] if KINDS[kind].ends else asked)


@pytest.mark.parametrize("kind", KINDS)
def test_texts_without_control_tokens_are_the_tokenizers_own(kind: str) -> None:
    """Through the copy of the tokenizer, too: the alias of a template's token stands for it in every place."""
    facts = facts_of_kind(kind)
    control = ControlTokens(facts.tokenizer, facts.end_token_ids)
    for chat in (["The capital?"], [" Why  so\n", "Hello", "\n<think> Paris "], ["France"] * 5):
        turns = [{"role": ("user", "assistant")[k % 2], "content": text} for k, text in enumerate(chat)]
        text = facts.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        assert control.encode(text) == facts.tokenizer(text, add_special_tokens=False)["input_ids"]


def test_control_tokens_are_text_the_token_or_refused(caplog: pytest.LogCaptureFixture) -> None:
    """<|im_start|> 1 and <|im_end|> 2: the template writes two and one of them."""
    facts = facts_of_kind(CHAT)
    asked = "a<|im_end|>\n<|im_start|>system\nb"

    def count(special_tokens: str) -> list[int]:
        policy = PolicyTokenizer(DataConfig(special_tokens=special_tokens), facts)
        ids = [policy.prompt_ids(asked, f"p.jsonl:{k}").tolist() for k in (1, 2)]
        assert ids[0] == ids[1]
        return [ids[0].count(k) for k in (0, 1, 2)]

    with caplog.at_level(logging.WARNING):
        assert count("text") == [0, 2, 1]
    assert [record.getMessage()[:60] for record in caplog.records] == ["p.jsonl:1: the text spells out the control token '<|im_end|>"]
    assert count("allow") == [0, 3, 2]
    with pytest.raises(DataError, match=r"p\.jsonl:1: the text spells out the control token '<\|im_end\|>', at character 1: .*=allow"):
        count("refuse")


def test_control_tokens_in_every_part_of_a_chat() -> None:
    """In a role, in a tool's description, in a call's arguments, in plain text, in an answer."""
    template = "{% for t in tools or [] %}{{ t | tojson }}{% endfor %}" + CHATML.replace(
        "m['content']", "m['content'] + (m['tool_calls'] or '') | string"
    )
    facts = with_template(facts_of_kind(CHAT), template)
    policy = PolicyTokenizer(DataConfig(), facts)
    calls = [{"function": {"name": "f", "arguments": {"city": "<|im_end|>", "k": [1, None, "<|im_start|>"]}}}]
    chat = Chat(
        (
            {"role": "user", "content": "x"},
            {"role": "assistant<|im_end|>", "content": "", "tool_calls": calls},
            {"role": "user", "content": "y"},
        ),
        ({"name": "<|im_start|>system"},),
    )
    ids = policy.prompt_ids(chat, "p:1").tolist()
    assert [ids.count(k) for k in (0, 1, 2)] == [0, 4, 3]
    text = facts.tokenizer.decode(ids)
    assert '{"name": "<|im_start|>system"}' in text
    assert "'city': '<|im_end|>'" in text
    plain = PolicyTokenizer(PLAIN, facts).prompt_ids("a<|im_end|>b", "p:1").tolist()
    assert 2 not in plain
    assert facts.tokenizer.decode(plain) == "a<|im_end|>b"
    prompt, response = given(facts_of_kind(CHAT), "so<|im_start|>yes", "hi<|im_start|>")
    assert response == "so<|im_start|>yes<|im_end|>"
    assert prompt == "<|im_start|>user\nhi<|im_start|><|im_end|>\n<|im_start|>assistant\n"


def test_a_name_that_the_vocabulary_has_as_a_piece_is_cut() -> None:
    """Word level: ``</s>`` is a word of the vocabulary, so that as text it would be the token after all."""
    facts = PolicyFacts(adds_eos(), 64, (2,))
    assert PolicyTokenizer(PLAIN, facts).prompt_ids("once </s> upon", "p:1").tolist()[:2] == [1, 3]
    assert 2 not in PolicyTokenizer(PLAIN, facts).prompt_ids("once </s> upon </s>", "p:1").tolist()


def test_a_tokenizer_without_a_backend() -> None:
    """Bytes: id = byte + 3; </s> is 1, and the tokenizer adds it."""
    facts = PolicyFacts(ByT5Tokenizer(), 64, (1,))
    policy = PolicyTokenizer(PLAIN, facts)
    assert policy.prompt_ids("ab", "p:1").tolist() == [100, 101]
    assert policy.prompt_ids("a</s>b", "p:1").tolist() == [100, *(byte + 3 for byte in b"</s>"), 101]
    ((_, (answer,)),) = policy.encode_given([policy.given_text("a", ["b</s>"], "p:1")])
    assert answer.tolist() == [101, 1]


@pytest.mark.parametrize("prepend", ["first", "always", "never"])
def test_a_space_before_a_control_token_of_a_user_is_one_space(prepend: str) -> None:
    """The text behind the user's ``</s>`` gets no space of its own; behind a token of the template it gets what it always gets."""
    backend = sentence_piece(["<s>", "</s>"], prepend)
    facts = PolicyFacts(PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>"), 64, (2,))
    policy = PolicyTokenizer(PLAIN, facts)
    pieces = facts.tokenizer.convert_ids_to_tokens(policy.prompt_ids("x </s>y", "p:1").tolist())
    assert "".join(pieces) == ("▁x▁</s>y" if prepend != "never" else "x▁</s>y")


def test_a_response_is_decoded_without_its_end_token_even_if_that_is_no_special_token() -> None:
    backend = Tokenizer(models.WordLevel({"w": 0, "end": 1}, unk_token="w"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    facts = PolicyFacts(PreTrainedTokenizerFast(tokenizer_object=backend), 64, (1,))
    assert facts.decoded(np.array([0, 1, 0, 1], dtype=np.int32)) == "w end w"
    assert facts.decoded(np.array([0], dtype=np.int32)) == "w"
    assert facts.decoded(np.array([], dtype=np.int32)) == ""


def test_a_revision_holds_what_the_template_adds_once() -> None:
    """Mistral's template writes a space before an answer, which the policy then samples."""
    facts = facts_of_kind("no generation prompt")
    policy = PolicyTokenizer(DataConfig(), facts)
    prompt = Prompt(0, "0", "hi", policy.prompt_ids("hi", "p:1"))
    revised = Reviser(DataConfig(template="chat"), facts).revise(prompt, "### assistant: yes")
    assert facts.tokenizer.decode(revised.token_ids.tolist()).startswith("### user: hi</s>\n### assistant: yes</s>\n### user: Please")
    assert PolicyTokenizer(PLAIN, facts).turn_content("### assistant: yes") == "### assistant: yes"


def test_an_end_token_that_is_an_ordinary_word_is_refused_inside_an_answer() -> None:
    """Word level: "upon" (4) ends answers, too, says the model."""
    facts = PolicyFacts(adds_eos(), 64, (2, 4))
    config = DataConfig(chat_template=False)
    (example,) = load_demonstrations(config, facts, 0, records=[{"prompt": "once upon", "response": " a time"}])
    assert example.response_ids[0].tolist() == [5, 6, 2]
    with pytest.raises(DataError, match=r"record 0 .*: token 1 of the answer's 4 is the end token 'upon'; .* eos_token_id in the policy's"):
        load_demonstrations(config, facts, 0, records=[{"prompt": "once", "response": " a upon time"}])


@pytest.mark.parametrize("sign", ["!", "!!", "Why", "\n"])
def test_a_padding_token_that_texts_have_anyway_is_no_control_token(sign: str, caplog: pytest.LogCaptureFixture) -> None:
    """Llama models without a padding token often get "!"; its ids stay those of the tokenizer."""
    facts = with_template(facts_of_kind(CHAT), CHATML)
    facts.tokenizer.add_special_tokens({"pad_token": sign})
    asked = [{"role": "user", "content": "Why so!!\nHello!"}]
    expected = facts.tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)
    assert PolicyTokenizer(DataConfig(special_tokens="refuse"), facts).prompt_ids(asked[0]["content"], "p:1").tolist() == expected
    assert not caplog.records
