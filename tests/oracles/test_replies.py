"""How a judge's reply is read: the total that it gives, one verdict, or nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypref.oracles.support.replies import BEST_SCORE, read_score, read_verdict


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("Score: 1 + 1 + 1 = 3", 3.0),
        ("Score: 1+1+1", 3.0),
        ("Score: 5 - 1 = 4", 4.0),
        ("Score: 3 + 4 = 7", None),
        ("Score: 1 + 1 + 1 = 4", None),
        ("Score: 7-8", None),
        ("Score: 3-4", None),
        ("Score: 3–4", None),
        ("Score: 3 to 4", None),
        ("Score: 3 or 4", None),
        ("Score: 3~4", None),
        ("Score: 4/5", 4.0),
        ("Score: 4 / 5.0 points.", 4.0),
        ("Score: 4 out of 5", 4.0),
        ("Score: 4 points out of a maximum of 5", 4.0),
        ("Score: four out of five", 4.0),
        ("Score: 7/10", None),
        ("Score: 3/10", None),
        ("Score: 3 out of 10", None),
        ("Score: 4/5/2024", None),
        ("Score: 3,5", 3.5),
        ("Score: ３．５", 3.5),
        ("Score： ３，５", 3.5),
        ("Score: ٣٫٥", 3.5),
        ("Score: 3½", 3.5),
        ("Score: ½", 0.5),
        ("Score: 3 and a half", None),
        ("Score: .5", 0.5),
        ("Score: 4.", 4.0),
        ("Score: 3,500", None),
        ("Score: 3.5.1", None),
        ("Score: 4²", None),
        ("Score: 4e0", None),
        ("Score: 4th", None),
        ("Score: 4%", None),
        ("Score: 4 percent", None),
        ("Score: 4+", None),
        ("Score: ~4", None),
        ("Score: 4 points", 4.0),
        ("Score: 1 point", 1.0),
        ("Score: **4** - very good", 4.0),
        ("**Score:** 4", 4.0),
        ('{"score": 4}', 4.0),
        ("Score: [[4]]", 4.0),
        ("Score: $\\boxed{4}$", 4.0),
        ("Score: 4 (1 + 1 + 1 + 1)", 4.0),
        ("Score: 4 (no, 3)", None),
        ("Score: 3. Rather 4.", None),
        ("Score (of 5): 4", 4.0),
        ("Score:\n\n**4**", 4.0),
        ("Score: 2\nFinal score:\n4", 4.0),
        ("Score: 4\nFinal score:", None),
        ("Score: 4\nFinal score 3", None),
        ("Score: 4\nThis score of 4 is final.", 4.0),
        ("Score: 4\nFinal score: high", None),
        ("Score: 4. Score: 4", 4.0),
        ("Underscore: 3\nSubscore: 1", None),
        ("sub-score: 1", None),
        ("<think>Score: 2</think>Score: 3", 3.0),
        ("<think>Score: 2", None),
        ("Score: 5.0", 5.0),
        ("Score: 5.01", None),
        ("Score: 04", None),
        ("Score: 2*2", None),
        ("Score: 3 1/2", None),
        ("Score: 1 1/1", None),
        ("Score: 4/5/5", None),
        ("Score: (4)", 4.0),
        ("Score: 4 because it meets 4 of 5 criteria", 4.0),
        ("Score: 4 minus 1", None),
        ("Score: 4 -> 3", None),
        ("Score: 1 + 1 + 0 + 1 + 0 = 3/5", 3.0),
        ("Score: 4 / 5 = 80%", None),
        ("Score: 1e999", None),
    ],
)
def test_the_total_that_was_meant_or_nothing(reply: str, expected: float | None) -> None:
    assert read_score(reply) == expected


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("Tomorrow [[A]]", 1.0),
        ("［［Ｂ］］", 0.0),
        ("[[A]]\nor rather [[A or B]]", None),
        ("[[A]]\n[[Tie]]", None),
        ("[[А]]", None),  # Cyrillic
        ("[[A]]\nx = m[[0]]", 1.0),
        ("<think>[[A]]</think>[[B]]", 0.0),
        ("<think>first [[A]]", None),
    ],
)
def test_the_last_mark_is_the_verdict_whatever_it_says(reply: str, expected: float | None) -> None:
    assert read_verdict(reply) == expected


DIGITS = {"ascii": "0123456789", "fullwidth": "０１２３４５６７８９", "arabic": "٠١٢٣٤٥٦٧٨٩", "devanagari": "०१२३४५६७८९"}
POINTS = (".", ",", "．", "，", "٫", "·")
FORMS = (
    "Score: {}", "score：{}", "**Score: {}**", "**Score:** **{}**", '"score": "{}",', "Score: {}/5", "Score: {} out of 5 points",
    "Score: {} points.", "Score: <{}>", "Because.\nScore:\n{}", "Score: 0 + {0} = {0}", "Score: {} — fine",
)  # fmt: skip


@given(tenths=st.integers(0, 50), digits=st.sampled_from(sorted(DIGITS)), point=st.sampled_from(POINTS), form=st.sampled_from(FORMS))
def test_a_score_in_any_notation_reads_back(tenths: int, digits: str, point: str, form: str) -> None:
    whole, part = divmod(tenths, 10)
    text = f"{whole}.{part}" if part else str(whole)
    text = text.translate(str.maketrans("0123456789", DIGITS[digits])).replace(".", point)
    assert read_score(form.format(text)) == pytest.approx(tenths / 10)


@given(reply=st.text() | st.from_regex(r"Score: ?[-+0-9.,/%= ()a-z½²]{0,12}"))
def test_junk_gives_nothing_outside_the_scale(reply: str) -> None:
    for read, highest in ((read_score, BEST_SCORE), (read_verdict, 1.0)):
        value = read(reply)
        assert value is None or 0.0 <= value <= highest


@given(
    first=st.integers(0, 5), second=st.integers(0, 9), link=st.sampled_from(["-", " - ", "–", "—", " to ", " or ", "~", " / 1", ";", ", "])
)
def test_two_different_numbers_are_no_score(first: int, second: int, link: str) -> None:
    """Unless they are one: 3,4 without a space is 3.4. With ``=`` or ``+`` the total counts, see above."""
    if first != second:
        assert read_score(f"Score: {first}{link}{second}") is None
