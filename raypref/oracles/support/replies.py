"""How the reply of a language model that judges is read: its last mark, which becomes P(first > second) or a score.

A judge may reason before it decides, so only the last line with a mark counts. What follows a mark must be one verdict, or one total on
the scale. Everything else is unreadable: the oracle counts it and never guesses. A reply that ends in the middle of its thoughts
(``<think>`` without ``</think>``) has no verdict.

    Score: 4    Score: 4/5 points    Score: 3,5    Score: 1 + 1 + 1 = 3    read: 4, 4, 3.5, 3
    Score: 7/10    Score: 3-4    Score: 80%    Score: 2 or 3               unreadable
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence

BEST_SCORE = 5.0
"""The highest score; the lowest is 0."""

_VERDICT = re.compile(r"\[\[\s*([^\W\d_][^\[\]\n]{0,40}?)\s*\]\]")
"""[[A]], and anything else in such brackets that starts with a letter: [[A or B]] takes back an earlier [[A]]."""
_MARK = re.compile(r"(?<![^\W_])(?<!sub[-_ ])score(?:\s*\([^()]*\))?[\s*_\"'`]*[:=]", re.IGNORECASE)
_LATER = re.compile(r"(?<![^\W_])score\b[^\d\n]{0,20}?(\d+(?:[.,]\d+)?)", re.IGNORECASE)
"""A score without the mark, after the last mark."""
_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_WORDS = {word: float(value) for value, word in enumerate(_NAMES)}
_OTHER_NUMBERS = re.compile(r"\b(?:half|quarters?|thirds?|hundred|thousand|million|dozen)\b")
_FIGURE = r"(?:\d+(?:[.,]\d+)?|[.,]\d+)"
_NUMBER = re.compile(_FIGURE)
_TOTAL = re.compile(rf"[\s;]*([+-]?\s*{_FIGURE}(?:\s*[+-]\s*{_FIGURE})*)((?:\s*=\s*[+-]?{_FIGURE})*)(?![\d%‰^~])(?!\s*[%‰])(?![.,:]\d)")
_OUT_OF = re.compile(
    rf"[\s;]*(?:\.?\s*/|points?\s+(?:out\s+)?of|(?:out\s+)?of)\s*(?:an?\s+|the\s+)?(?:possible\s+|max(?:imum)?\s+(?:of\s+)?)?({_FIGURE})"
)
_SCALE = re.compile(rf"(?:/|\bof|\bmax(?:imum)?)[\s:]*{BEST_SCORE:g}(?:[.,]0+)?\b")
_JOINED = re.compile(r"\s+\d|\s*(?:[+=/~^×*÷<>|&]|-\s*(?:\d|$)|to\b|or\b|and\b|plus\b|minus\b|times\b|per\s?cent\b|x\b|[^\W\d_]+\d)|[a-z]")
"""What makes of the number before it a part of something else: 4+, 3 to 4, 3 1/2, 4 per cent, 4th."""


def read_verdict(reply: str) -> float | None:
    """P(A > B) according to the reply's last mark: [[A]] 1, [[B]] 0, [[C]] one half.

    None without a mark, and where the last line with marks has another one, or two different ones. Marks on earlier lines do not count.
    """
    for line in reversed(unicodedata.normalize("NFKC", _after_thoughts(reply)).splitlines()):
        marks = set(_VERDICT.findall(line))
        if marks:
            return {"A": 1.0, "B": 0.0, "C": 0.5}.get(marks.pop()) if len(marks) == 1 else None
    return None


def read_first_token(candidates: Sequence[tuple[str, float]]) -> float | None:
    """P(A > B) = p(A) / (p(A) + p(B)), from the log-probs of a reply's first token.

    Source: AlpacaEval 2's weighted annotator (arXiv 2404.04475). None where A and B together have less than one half: the judge answers in
    another form.

    Args:
        candidates: (text, log-prob in nats) of the likeliest first tokens.
    """
    first, second = (math.fsum(math.exp(logprob) for token, logprob in candidates if token.strip() == letter) for letter in "AB")
    return first / (first + second) if first + second >= 0.5 else None


def read_score(reply: str) -> float | None:
    """The total after the reply's last ``Score:``, from 0 to 5.

    A sum counts as its total (``1 + 1 + 1 = 3``), ``4/5`` and ``4 out of 5`` as 4, ``3,5`` as 3.5. None without a score, and where it is
    ambiguous: a range, several different scores, a wrong sum, a fraction of another scale, a percentage, or another number beside it.
    """
    lines = [_plain(line) for line in _after_thoughts(reply).splitlines()]
    marked = [number for number, line in enumerate(lines) if _MARK.search(line)]
    if not marked:
        return None
    last = marked[-1]
    texts = _MARK.split(lines[last])[1:]
    if not _bare(texts[-1]).strip(" .:#-;"):  # the score is on the next line that has one
        texts[-1] = next((line for line in lines[last + 1 :] if _bare(line).strip()), "")
    scores = {_total(text) for text in texts}
    score = scores.pop() if len(scores) == 1 else None
    later = {float(number.replace(",", ".")) for line in lines[last + 1 :] for number in _LATER.findall(line)}
    return score if later <= {score} else None


def _after_thoughts(reply: str) -> str:
    """The reply without the thoughts before it; empty where the thoughts do not end."""
    answer = reply.rpartition("</think>")[2]
    return "" if "<think>" in answer else answer


def _plain(line: str) -> str:
    """The line with digits, points, signs and fractions of any script as ASCII, and number words as digits."""
    line = re.sub(r"[⁰¹²³⁴-⁹₀-₉]", "^", line)
    line = "".join(_character(character) for character in line)
    return re.sub(rf"\b(?:{'|'.join(_WORDS)})\b", lambda word: f"{_WORDS[word[0].lower()]:g}", line, flags=re.IGNORECASE)


def _character(character: str) -> str:
    if character.isdecimal():
        return str(unicodedata.decimal(character))
    if unicodedata.category(character) == "No" and unicodedata.decomposition(character).startswith("<fraction>"):
        return f"+{unicodedata.numeric(character):g}"
    if unicodedata.category(character) == "Pd" or character == "\N{MINUS SIGN}":
        return "-"
    same = {"\N{ARABIC DECIMAL SEPARATOR}": ".", "\N{MIDDLE DOT}": ".", "\N{FRACTION SLASH}": "/", "\N{DIVISION SLASH}": "/"}
    return same.get(character) or unicodedata.normalize("NFKC", character)


def _bare(text: str) -> str:
    """The text without marks of emphasis and brackets; a round bracket ends what stands before it."""
    text = re.sub(r"(?<=\d)\s*\*+\s*(?=\d)", "×", text)
    return re.sub(r"\\[a-z]+|[\\*_\"“”'‘’`<>\[\]{}$]", " ", text).replace("(", ";").replace(")", ";")


def _total(text: str) -> float | None:
    """The one total that ``text`` starts with; None where there is none on the scale, or something contradicts it."""
    text = _bare(text).lower()
    start = _TOTAL.match(text)
    if start is None:
        return None
    terms, results = _NUMBER.findall(start[1]), _NUMBER.findall(start[2])
    value = _sum(start[1])
    if len(terms) > 1 and re.search(r"\d\s*-", start[1]) and not results:  # 3-4 is a range
        return None
    if value is None or not all(_same(_value(result), value) for result in results):
        return None
    rest = text[start.end() :]
    if (scale := _OUT_OF.match(rest)) is not None:
        if _value(scale[1]) != BEST_SCORE:
            return None
        rest = rest[scale.end() :]
    fits = 0.0 <= value <= BEST_SCORE and not _JOINED.match(rest) and _agrees(rest, value)
    return value if fits else None


def _agrees(rest: str, value: float) -> bool:
    """Whether no number in the rest of the line could be meant instead: none, the same, the scale, or terms whose sum is the score."""
    numbers = [_value(number) for number in _NUMBER.findall(_SCALE.sub("", rest))]
    if _OTHER_NUMBERS.search(rest) or None in numbers or re.search(r"%|\d\s*/", rest):
        return False
    return all(_same(number, value) for number in numbers) or _same(sum(number or 0.0 for number in numbers), value)


def _same(number: float | None, value: float) -> bool:
    return number is not None and abs(number - value) <= 1e-6


def _sum(terms: str) -> float | None:
    total = 0.0
    for sign, figure in re.findall(rf"([+-]?)\s*({_FIGURE})", terms):
        number = _value(figure)
        if number is None:
            return None
        total += -number if sign == "-" else number
    return total


def _value(figure: str) -> float | None:
    """3.5 and 3,5; None for 3,500, which may be 3500."""
    if re.fullmatch(r"\d+,\d{3,}", figure) or re.match(r"0\d", figure):
        return None
    return float(figure.replace(",", "."))
