"""Text and tables on a terminal or in a log: characters as they are, and no digit lost where a table is wider than the terminal."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

_INVISIBLE = {
    *"\u061c\u180e\u200b\u200e\u200f\u2028\u2029\ufeff",
    *map(chr, (*range(0x202A, 0x202F), *range(0x2060, 0x2070), *range(0xFFF9, 0xFFFC))),
}
"""Characters that show nothing or change the direction of others. Joiners (emoji, Indic scripts) stay."""
NAMES_WIDTH = 8
"""Least width of names and headings, which fold, beside a figure."""
_UNBOUNDED = 100_000
"""A width that no table reaches."""


def visible(text: object) -> str:
    """The text with control characters as escapes, such as ``\\x1b``; line ends and tabs stay.

    A model's text can hold terminal commands (colours, cursor movements, a new window title, a link), half a surrogate pair, or characters
    that reverse the ones beside them.
    """
    return "".join(_escaped(character) if _is_hidden(character) else character for character in str(text))


def _is_hidden(character: str) -> bool:
    if character in "\n\t":
        return False
    return unicodedata.category(character) in ("Cc", "Cs") or character in _INVISIBLE or 0xE0000 <= ord(character) < 0xE0080


def _escaped(character: str) -> str:
    code = ord(character)
    names = {"\r": "\\r", "\b": "\\b", "\a": "\\a"}
    return names.get(character) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")


def counted(count: int, thing: str) -> str:
    """``1 prompt``, ``2 prompts``."""
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def interval(rate: Mapping[str, float]) -> str:
    """A win rate (``win_rate``, ``low``, ``high``) with its interval."""
    return f"{rate['win_rate']:.3f}  [{rate['low']:.3f}, {rate['high']:.3f}]"


def print_table(table: Table, console: Console | None = None) -> None:
    """Print a table of figures so that no figure is cut.

    In a file or a pipe it gets the width that it needs. On a terminal that is too narrow, each row becomes a block with one line per
    figure.

    Args:
        table: its cells are ``rich.text.Text`` or plain strings, which are not read as markup.
        console: default: standard output.
    """
    from rich.console import Console

    console = console or Console()
    narrow, needed = console.width, _width(table, console)
    if needed > narrow and console.is_terminal:
        table = _in_blocks(table)
        figures = max(_width(cell, console) for cell in table.columns[1].cells)
        needed = NAMES_WIDTH + figures + len("│  │  │")
    console.width = max(needed, narrow)
    try:
        console.print(table, markup=False, highlight=False)
    finally:
        console.width = narrow


def _width(shown: RenderableType, console: Console) -> int:
    from rich.measure import Measurement

    return Measurement.get(console, console.options.update(width=_UNBOUNDED), shown).maximum


def _in_blocks(table: Table) -> Table:
    """The same table with one line per figure, a section per row: heading and cell."""
    from rich.table import Table

    blocks = Table(title=table.title, caption=table.caption, show_header=False)
    blocks.add_column(overflow="fold", min_width=NAMES_WIDTH)
    blocks.add_column(justify="right", no_wrap=True)
    headings = [column.header for column in table.columns]
    for row in zip(*(column.cells for column in table.columns), strict=True):
        name, *figures = row
        blocks.add_row(name, "")
        for heading, figure in zip(headings[1:], figures, strict=True):
            blocks.add_row(heading, figure)
        blocks.add_section()
    return blocks
