"""Curves with bands as an SVG picture, without a plotting library: a few points per curve, one colour per curve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

COLOURS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#ff8ab7", "#a463f2", "#97bbf5")
_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM, _LEGEND = 640, 400, 60, 40, 50, 150


@dataclass(frozen=True, slots=True)
class Curve:
    """One curve of a figure."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    lows: Sequence[float]
    """Lower ends of the band around the curve."""
    highs: Sequence[float]


def save_curves(path: Path, title: str, curves: Sequence[Curve], *, x: str, y: str, level: float | None = None) -> None:
    """Write a figure with all curves in one pair of axes.

    Args:
        path: replaced.
        title: of the figure.
        curves: at least one, with finite values.
        x, y: titles of the axes.
        level: a value at which a horizontal line is drawn.
    """
    every_x = [value for curve in curves for value in curve.xs]
    every_y = [value for curve in curves for value in (*curve.lows, *curve.highs)] + ([] if level is None else [level])
    horizontal, vertical = _Axis.over(every_x, _LEFT, _WIDTH - _LEGEND), _Axis.over(every_y, _HEIGHT - _BOTTOM, _TOP)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        _text(_WIDTH / 2, 20, title, size=14),
        _text((_LEFT + _WIDTH - _LEGEND) / 2, _HEIGHT - 10, x),
        f'<g transform="translate(14 {_HEIGHT / 2}) rotate(-90)">{_text(0, 0, y)}</g>',
    ]
    for value in sorted(set(every_x)):
        lines.append(_text(horizontal.at(value), _HEIGHT - _BOTTOM + 18, f"{value:g}"))
    for step in range(5):
        value = vertical.low + (vertical.high - vertical.low) * step / 4
        lines.append(_rule(vertical.at(value), "#dddddd"))
        lines.append(_text(_LEFT - 6, vertical.at(value) + 4, f"{value:.2f}", anchor="end"))
    if level is not None:
        lines.append(_rule(vertical.at(level), "#888888"))
    for place, curve in enumerate(curves):
        lines += _drawn(curve, COLOURS[place % len(COLOURS)], horizontal, vertical)
        lines.append(_text(_WIDTH - _LEGEND + 14, _TOP + 18 * place + 12, curve.name, anchor="start", colour=COLOURS[place % len(COLOURS)]))
    path.write_text("\n".join([*lines, "</svg>"]) + "\n", encoding="utf-8")


@dataclass(frozen=True, slots=True)
class _Axis:
    """Values from ``low`` to ``high`` on the pixels from ``start`` to ``end``."""

    low: float
    high: float
    start: float
    end: float

    @classmethod
    def over(cls, values: Sequence[float], start: float, end: float) -> _Axis:
        low, high = min(values), max(values)
        room = 0.05 * (high - low) or 0.5
        return cls(low - room, high + room, start, end)

    def at(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def _drawn(curve: Curve, colour: str, horizontal: _Axis, vertical: _Axis) -> list[str]:
    def points(xs: Sequence[float], ys: Sequence[float]) -> str:
        return " ".join(f"{horizontal.at(a):.1f},{vertical.at(b):.1f}" for a, b in zip(xs, ys, strict=True))

    band = points([*curve.xs, *reversed(curve.xs)], [*curve.lows, *reversed(curve.highs)])
    dots = [
        f'<circle cx="{horizontal.at(a):.1f}" cy="{vertical.at(b):.1f}" r="3" fill="{colour}"><title>{escape(curve.name)}, {a:g}: {b:.4f}'
        f"</title></circle>"
        for a, b in zip(curve.xs, curve.ys, strict=True)
    ]
    line = f'<polyline points="{points(curve.xs, curve.ys)}" fill="none" stroke="{colour}" stroke-width="2"/>'
    return [f'<polygon points="{band}" fill="{colour}" fill-opacity="0.2"/>', line, *dots]


def _text(x: float, y: float, text: str, *, anchor: str = "middle", size: int = 12, colour: str = "#222222") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{colour}">{escape(text)}</text>'


def _rule(y: float, colour: str) -> str:
    return f'<line x1="{_LEFT}" x2="{_WIDTH - _LEGEND}" y1="{y:.1f}" y2="{y:.1f}" stroke="{colour}"/>'
