"""What a page is made of: sections, and in them plots, tables, notes and samples. ``templates/report.html.j2`` shows each kind."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

Level = Literal["good", "plain", "warning", "critical"]


@dataclass(frozen=True, slots=True)
class Plot:
    """A figure for plotly.js; colours come from the page's theme."""

    kind: ClassVar[str] = "plot"
    title: str
    data: list[dict[str, Any]]
    """Traces."""
    layout: dict[str, Any]
    caption: str = ""
    wide: bool = False
    """Whether it takes the width of the page instead of half of it."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a table that stands out."""

    text: str
    level: Level = "plain"


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text; the first cell of each is its name."""

    kind: ClassVar[str] = "table"
    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    caption: str = ""
    texts: bool = False
    """Whether the cells are sentences, which wrap, and not figures, which do not."""
    folded: bool = False
    """Whether it is shown only when it is opened."""


@dataclass(frozen=True, slots=True)
class Note:
    """A paragraph; what is missing and how to get it, among others."""

    kind: ClassVar[str] = "note"
    text: str
    level: Level = "plain"


@dataclass(frozen=True, slots=True)
class Answer:
    """A response under its heading."""

    heading: str
    text: str
    figures: str = ""
    """Win rate and length, as text."""
    level: Level = "plain"


@dataclass(frozen=True, slots=True)
class Sample:
    """Responses to one prompt, side by side, and a matrix of preferences between them where there is one."""

    kind: ClassVar[str] = "sample"
    prompt: str
    answers: Sequence[Answer]
    about: str = ""
    matrix: Sequence[Sequence[float | None]] = ()
    """(K, K); None where it is not known."""
    names: Sequence[str] = ()
    """(K,) headings of the matrix."""


Block: TypeAlias = Plot | Table | Note | Sample


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page with a heading."""

    id: str
    title: str
    intro: str = ""
    blocks: Sequence[Block] = ()


def shown(value: float, digits: int = 3) -> str:
    """A figure in at most so many significant digits; a dash for NaN."""
    if math.isnan(value):
        return "–"
    if value and abs(value) < 10 ** -(digits + 1):
        return f"{value:.1e}"
    if abs(value) >= 10**digits:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def seconds_shown(seconds: float) -> str:
    """``57 s``, ``12 min``, ``3.4 h``."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
