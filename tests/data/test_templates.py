"""The prompts of SRPO Appendix C.1 to the letter, a chat's, and one's own."""

from __future__ import annotations

import pytest

from raypref.data.chats import Chat
from raypref.data.config import DataConfig
from raypref.data.templates import template_of
from raypref.errors import ConfigError

FIRST = """Below is a reddit POST and the corresponding SUBREDDIT and TITLE. \
Write a both precise and concise summary of the contents of the POST.
SUBREDDIT: r/x
TITLE: T
POST: P
TL;DR:"""

REVISED = """Below is a reddit POST and the corresponding SUBREDDIT, TITLE, and an EXAMPLE SUMMARY. \
Write a both precise and concise summary of the contents of the POST.
SUBREDDIT: r/x
TITLE: T
POST: P
EXAMPLE SUMMARY: short
TL;DR:"""


def test_tldr() -> None:
    template = template_of("tldr")
    assert template.compose({"subreddit": "r/x", "title": "T", "post": "P"}) == FIRST
    assert template.compose({"title": "T", "post": "P"}) is None
    assert template.revise(FIRST, " short ") == REVISED
    bare = FIRST.split("\n", 1)[1]
    assert template.revise(bare, "short") == REVISED, "a prompt of the hub's layout, without the opening sentence"


def test_xsum() -> None:
    template = template_of("xsum")
    first = template.compose({"id": "17", "title": "T", "article": "A"})
    assert first == (
        "Below is a news ARTICLE and the corresponding ID and TITLE. Write a both precise and concise summary of the contents of the "
        "ARTICLE.\nID: 17\nTITLE: T\nARTICLE: A\nTL;DR:"
    )
    assert template.revise(first, "s") == (
        "Below is a news ARTICLE and the corresponding ID, TITLE, and an EXAMPLE SUMMARY. Write a both precise and concise summary of the "
        "contents of the ARTICLE.\nID: 17\nTITLE: T\nARTICLE: A\nEXAMPLE SUMMARY: s\nTL;DR:"
    )


def test_chat_goes_on() -> None:
    turns = template_of("chat").revise("Why?", "so")
    assert isinstance(turns, Chat)
    assert turns.shown()[:2] == (("user", "Why?"), ("assistant", "so"))
    assert turns[2]["role"] == "user"
    tools = ({"name": "weather"},)
    revised = template_of("chat").revise(Chat(Chat.of([("system", "s"), ("user", "u")]).turns, tools), "a")
    assert isinstance(revised, Chat)
    assert (len(revised), revised.tools) == (4, tools)


def test_a_text_of_ones_own() -> None:
    """Braces in the prompt or the answer stay what they are."""
    assert template_of("{prompt}|{answer}|{prompt}").revise("p {answer}", "a {prompt}") == "p {answer}|a {prompt}|p {answer}"


@pytest.mark.parametrize("name", ["tdlr", "{prompt} only", "{answer} only", "{prompt} {answer} {answer}"])
def test_unknown_templates_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"data\.template: .* is neither one of tldr, xsum, chat nor a text with"):
        DataConfig.parse({"template": name})


@pytest.mark.parametrize("name", ["tldr", "{prompt}{answer}"])
def test_plain_templates_refuse_chats(name: str) -> None:
    with pytest.raises(ConfigError, match="the data holds chats"):
        template_of(name).revise([{"role": "user", "content": "u"}], "a")
