"""Figure 2 of the SRPO paper, drawn as an SVG picture: probability of each arm over the optimiser's steps."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Paths = Mapping[str, Mapping[str, NDArray[np.float64]]]
"""Behaviour policy -> method -> (steps + 1, arms)."""

COLOURS = ("#d55e00", "#7f7f7f", "#0072b2")
"""Of y_0, y_1, y_2; chosen to be distinguishable for the colour-blind."""
WIDTH, HEIGHT, GAP, LEFT, TOP = 270, 190, 80, 50, 60
"""Of one panel, between panels, and of the margins, in pixels."""
POINTS = 200
"""Points of a line."""


def draw(paths: Paths, title: str, target: Path) -> None:
    """Write the picture: a row of panels per behaviour policy, a column per method.

    Args:
        paths: the same methods for each behaviour policy.
        title: the line above the panels.
        target: the file, ``.svg``; it is replaced.
    """
    columns = max(len(methods) for methods in paths.values())
    width, height = LEFT + columns * (WIDTH + GAP), TOP + len(paths) * (HEIGHT + GAP + 20)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        _text(LEFT, 22, title, "start", size=14),
    ]
    for row, (behaviour, methods) in enumerate(paths.items()):
        top = TOP + row * (HEIGHT + GAP + 20)
        for column, (method, path) in enumerate(methods.items()):
            parts += _panel(LEFT + column * (WIDTH + GAP), top, f"{method.upper()}, {behaviour} behaviour policy", path)
    target.write_text("\n".join([*parts, "</svg>", ""]), encoding="utf-8")


def _panel(left: int, top: int, title: str, path: NDArray[np.float64]) -> list[str]:
    """A frame with its axes, and one line per arm with its last value."""
    bottom, right, steps = top + HEIGHT, left + WIDTH, len(path) - 1
    parts = [
        f'<rect x="{left}" y="{top}" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="black"/>',
        _text(left + WIDTH / 2, top - 8, title, "middle"),
        _text(left, bottom + 16, "0", "middle"),
        _text(right, bottom + 16, f"{steps} steps", "end"),
    ]
    parts += [_text(left - 6, bottom - share * HEIGHT + 4, f"{share:g}", "end") for share in (0.0, 0.5, 1.0)]
    shown = np.unique(np.linspace(0, steps, POINTS).astype(int))
    heights = _separated(bottom - path[-1] * HEIGHT)
    for arm, colour in enumerate(COLOURS):
        points = " ".join(f"{left + k / steps * WIDTH:.1f},{bottom - path[k, arm] * HEIGHT:.1f}" for k in shown)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(_text(right + 4, heights[arm] + 4, f"y{arm} {path[-1, arm]:.2f}", "start", colour=colour))
    return parts


def _separated(heights: NDArray[np.float64], apart: float = 13.0) -> NDArray[np.float64]:
    """The same heights, moved down where labels would overlap."""
    moved = heights.copy()
    order = np.argsort(moved)
    for above, below in pairwise(order):
        moved[below] = max(moved[below], moved[above] + apart)
    return moved


def _text(x: float, y: float, text: str, anchor: str, size: int = 12, colour: str = "black") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{colour}">{text}</text>'
