"""A win-rate matrix as an SVG picture: orange where the row's policy loses to the column's, blue where it wins."""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import escape

from raypref.evaluation.win_rate_matrix import WinRateMatrix

CELL, TOP, MARGIN = 76, 40, 12
"""Side of a cell, height of the title, margin, in pixels."""
LETTER = 6.8
"""Mean width of a letter of size 12, in pixels."""
LOSES, EVEN, WINS = (213, 94, 0), (255, 255, 255), (0, 114, 178)
"""Red, green and blue at a win rate of 0, one half and 1; told apart by the colour-blind too."""


def draw(matrix: WinRateMatrix, target: Path) -> None:
    """Write the picture: a row and a column for each policy, in each cell the win rate and below it the interval.

    Args:
        matrix: of any number of policies.
        target: the file, ``.svg``; it is replaced.
    """
    size = len(matrix.names)
    left = 2 * MARGIN + LETTER * max(map(len, matrix.names))
    top = TOP + 2 * MARGIN + 0.71 * LETTER * max(map(len, matrix.names))
    title = f"win rate of the row against the column, {matrix.prompts} prompts, {matrix.confidence:.0%} bootstrap interval"
    width = max(left + size * CELL + 0.71 * LETTER * len(matrix.names[-1]), LETTER * len(title)) + 2 * MARGIN
    height = top + size * CELL + 2 * MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" font-family="sans-serif" font-size="12">',
        f'<rect width="{width:.0f}" height="{height:.0f}" fill="white"/>',
        _text(MARGIN, 24, title, "start"),
    ]
    for i, name in enumerate(matrix.names):
        x, y = left + i * CELL, top + i * CELL
        parts.append(_text(left - MARGIN, y + CELL / 2 + 4, name, "end"))
        parts.append(f'<g transform="translate({x + CELL / 2:.1f} {top - MARGIN:.1f}) rotate(-45)">{_text(0, 0, name, "start")}</g>')
        for j in range(size):
            parts += _cell(left + j * CELL, y, matrix, i, j)
    target.write_text("\n".join([*parts, "</svg>", ""]), encoding="utf-8")


def _cell(x: float, y: float, matrix: WinRateMatrix, i: int, j: int) -> list[str]:
    rate = matrix.win_rates[i][j]
    end = WINS if rate > 0.5 else LOSES
    share = abs(rate - 0.5) * 2.0
    red, green, blue = (round(middle + share * (far - middle)) for middle, far in zip(EVEN, end, strict=True))
    colour = "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 110 else "black"
    parts = [
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{CELL}" height="{CELL}" fill="rgb({red},{green},{blue})" stroke="white"/>',
        _text(x + CELL / 2, y + CELL / 2 + (0 if i != j else 5), f"{rate:.2f}", "middle", size=14, colour=colour),
    ]
    if i != j:
        interval = f"[{matrix.low[i][j]:.2f}, {matrix.high[i][j]:.2f}]"
        parts.append(_text(x + CELL / 2, y + CELL / 2 + 16, interval, "middle", size=10, colour=colour))
    return parts


def _text(x: float, y: float, text: str, anchor: str, size: int = 12, colour: str = "black") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{colour}">{escape(text)}</text>'
