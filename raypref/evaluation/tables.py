"""Results of evaluations as tables on the terminal, as SVG and as JSON.

A table has one row per policy, per n or per pair. Win rates come with intervals and mean lengths. The oracle's metrics, such as its cost,
stand below the table.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raypref.evaluation.agreement import LABELS, Agreement
from raypref.evaluation.best_checkpoint import BestCheckpoint
from raypref.evaluation.figure import Curve
from raypref.evaluation.length_controlled import LengthControlled
from raypref.evaluation.references import ReferenceWinRate, RevisionScore
from raypref.evaluation.reranking import BestOf
from raypref.evaluation.win_rate import WinRate
from raypref.evaluation.win_rate_matrix import WinRateMatrix
from raypref.output.terminal import counted, visible
from raypref.types import Total

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

OPEN = ("unanswered", "abstained")
"""Headings of what the oracle left open: whole prompts, single comparisons of one response with another."""
LOSES, EVEN, WINS = (213, 94, 0), (255, 255, 255), (0, 114, 178)
"""Red, green and blue of a win rate of 0, one half and 1: orange, white, blue, which colour-blind people can tell apart."""
SVG = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">
<style>.{unique_id}-matrix {{ font-family: monospace; font-size: {char_height}px; }} {styles}</style>
<defs><clipPath id="{unique_id}-clip-terminal"><rect width="{terminal_width}" height="{terminal_height}"/></clipPath>{lines}</defs>
<rect width="100%" height="100%" fill="white"/>
<g transform="translate({terminal_x}, {terminal_y})">{backgrounds}<g class="{unique_id}-matrix">{matrix}</g></g>
</svg>
"""
"""What ``save_svg`` writes: rich's own template without the frame of a terminal window, and without fonts from the network."""


def write_json(path: Path, result: Any) -> None:
    """Write a result, or several, as JSON under the names of its fields; NaN becomes null.

    Args:
        path: replaced.
        result: one of the frozen dataclasses of ``raypref.evaluation``, or a sequence or mapping of them.
    """
    content: Any
    if isinstance(result, Mapping):
        content = {name: asdict(item) for name, item in result.items()}
    else:
        content = [asdict(item) for item in result] if isinstance(result, Sequence) else asdict(result)
    path.write_text(json.dumps(_without_nan(content), indent=2, allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8")


def save_svg(path: Path, table: Table) -> None:
    """A table as an SVG picture.

    Args:
        path: replaced.
        table: of any of the functions below.
    """
    from rich.console import Console
    from rich.terminal_theme import DEFAULT_TERMINAL_THEME

    console = Console(record=True, file=io.StringIO(), width=1000, force_terminal=True, color_system="truecolor")
    console.width = console.measure(table).maximum
    console.print(table)
    console.save_svg(str(path), theme=DEFAULT_TERMINAL_THEME, code_format=SVG)


def matrix_table(matrix: WinRateMatrix) -> Table:
    """Win rates of the rows against the columns, shaded from orange (loses) to blue (wins), and the mean length of the rows' responses."""
    headings = ["", *matrix.names, matrix.unit, "unmatched"]
    rows: list[list[str | tuple[str, str]]] = []
    for i, name in enumerate(matrix.names):
        cells = [(_cell(matrix, i, j), _shade(matrix.win_rates[i][j])) for j in range(len(matrix.names))]
        rows.append([name, *cells, f"{matrix.lengths[i]:.1f}", str(matrix.unmatched[i])])
    table = _table(
        f"win rate of the row against the column, {counted(matrix.prompts, 'prompt')} ({matrix.confidence:.0%} interval)", headings, rows
    )
    beyond = "beyond chance" if matrix.cyclic_beyond_chance else "within chance"
    relation = f"the majority relation {f'has a cycle, {beyond}' if matrix.cyclic else 'has no cycle'}"
    table.caption = _caption(relation, _observed(matrix.oracle))
    return table


def reference_table(results: Sequence[ReferenceWinRate]) -> Table:
    """The scored and the soft win rate, both with the percentile interval and with mean and deviation over half samples."""
    headings = ["", "1 / 0.5 / 0", "half samples", "mean P", "half samples", "won / drawn / lost", "unanswered", "length", "unmatched"]
    rows = [
        [
            result.name,
            _interval(result.score),
            f"{result.score_half_samples.mean:.3f} ± {result.score_half_samples.deviation:.3f}",
            _interval(result.preference),
            f"{result.preference_half_samples.mean:.3f} ± {result.preference_half_samples.deviation:.3f}",
            f"{result.wins} / {result.draws} / {result.losses}",
            str(result.unanswered),
            f"{result.length:.1f} against {result.reference_length:.1f} {result.unit}",
            str(result.unmatched[0]),
        ]
        for result in results
    ]
    table = _table(f"win rate against {', '.join(dict.fromkeys(result.reference for result in results))}", headings, rows)
    table.caption = _caption(*(_observed(result.oracle, result.name) for result in results))
    return table


def best_of_table(curve: Sequence[BestOf]) -> Table:
    """Win rate of the best of n against the first response."""
    rows = [
        [
            str(point.n),
            _interval(point.against_first),
            str(point.against_first.unanswered),
            str(point.abstained),
            "" if point.length is None else f"{point.length:.1f}",
        ]
        for point in curve
    ]
    table = _table("best of n against the first response", ["n", "win rate", *OPEN, curve[0].unit or "length"], rows)
    table.caption = _caption(_observed(curve[0].oracle))
    return table


def checkpoint_table(result: BestCheckpoint) -> Table:
    """Candidates from the best to the worst; an asterisk marks those whose interval overlaps that of the best."""
    rows = [
        [
            candidate.name + (" *" if candidate.name in result.undecided else ""),
            _interval(candidate.win_rate),
            f"{candidate.behind:.3f}  [{candidate.behind_low:.3f}, {candidate.behind_high:.3f}]",
            str(candidate.win_rate.unanswered),
            str(candidate.abstained),
            f"{candidate.length:.1f}",
        ]
        for candidate in result.candidates
    ]
    table = _table(f"best checkpoint: {result.best}", ["", "win rate", "behind the best", *OPEN, result.unit], rows)
    table.caption = _caption("* the interval overlaps that of the best" if result.undecided else "", _observed(result.oracle))
    return table


def length_controlled_table(results: Mapping[str, LengthControlled]) -> Table:
    """Win rates at equal lengths beside the judge's own, and what the judge adds for length."""
    headings = ["", "length-controlled", "as judged", "theta", "phi (length)", "psi (difficulty)", "unanswered", "length"]
    rows = [
        [
            name,
            f"{result.win_rate:.3f}  [{result.low:.3f}, {result.high:.3f}]",
            f"{result.raw:.3f}",
            *(f"{value:+.3f}" for value in (result.theta, result.phi, result.psi)),
            str(result.unanswered),
            f"{result.length:.1f} against {result.baseline_length:.1f} {result.unit or ''}".rstrip(),
        ]
        for name, result in results.items()
    ]
    table = _table("win rate against the baseline at equal lengths", headings, rows)
    observed = (_observed(result.oracle, name) for name, result in results.items())
    table.caption = _caption(_comparable(next(iter(results.values()))), *observed)
    return table


def agreement_table(result: Agreement) -> Table:
    """Labels against verdicts as counts; the shares and kappas below."""
    rows = [[label, *map(str, counts)] for label, counts in zip(LABELS, result.confusion, strict=True)]
    title = f"labels (rows) and the oracle's verdicts, {counted(result.comparisons, 'comparison')} ({result.confidence:.0%} interval)"
    table = _table(title, ["", *LABELS], rows)
    table.caption = _caption(
        f"agreement {result.agreement:.3f}  [{result.low:.3f}, {result.high:.3f}], without ties {result.decided_agreement:.3f}",
        f"Cohen's kappa {result.kappa:.3f}  [{result.kappa_low:.3f}, {result.kappa_high:.3f}]"
        + ("" if math.isnan(result.people_kappa) else f", between people {result.people_kappa:.3f}"),
        f"left out: {result.unanswered} on which the oracle abstained, {result.no_majority} without a majority of the people",
        _observed(result.oracle),
    )
    return table


def revision_table(points: Sequence[RevisionScore], opponent: str) -> Table:
    """The score of each method after each revision."""
    rows = [
        [
            point.name,
            str(point.revisions),
            _interval(point.score),
            f"{point.score_half_samples.mean:.3f} ± {point.score_half_samples.deviation:.3f}",
            f"{point.wins} / {point.draws} / {point.losses}",
            str(point.unanswered),
            f"{point.length:.1f}",
        ]
        for point in points
    ]
    headings = ["", "revisions", "1 / 0.5 / 0", "half samples", "won / drawn / lost", "unanswered", points[0].unit]
    table = _table(f"win rate against {opponent} by number of revisions", headings, rows)
    table.caption = _caption(*(_observed(point.oracle, f"{point.name}, {point.revisions}") for point in points))
    return table


def revision_figure(points: Sequence[RevisionScore], opponent: str) -> dict[str, Any]:
    """The curves of ``revision_table`` for ``raypref.evaluation.figure.save_curves``: means over half samples, with their deviation."""
    curves = []
    for name in dict.fromkeys(point.name for point in points):
        own = [point for point in points if point.name == name]
        means, deviations = ([getattr(point.score_half_samples, key) for point in own] for key in ("mean", "deviation"))
        lows, highs = ([m + sign * d for m, d in zip(means, deviations, strict=True)] for sign in (-1, 1))
        curves.append(Curve(name, [point.revisions for point in own], means, lows, highs))
    return {"title": f"win rate against {opponent}", "curves": curves, "x": "revisions", "y": "win rate", "level": 0.5}


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _comparable(result: LengthControlled) -> str:
    """Whether the rates can be compared with AlpacaEval 2's."""
    if result.difficulties == "given":
        return "with the difficulties of the file"
    if result.difficulties == "estimated":
        return f"difficulties estimated from these {result.sets} sets, not AlpacaEval 2's (ten sets: 0.8 points apart on average)"
    return (
        "NOT comparable with AlpacaEval 2: a single set without the prompts' difficulties\n"
        "(6.1 points apart on average and up to 21 on its 55 sets); give --difficulties, or more sets"
    )


def _observed(oracle: Mapping[str, float], whose: str = "") -> str:
    """The oracle's metrics in one line; empty where there are none."""
    shown = [f"{name.removeprefix('oracle/')} {value:{',.10g' if isinstance(value, Total) else '.3f'}}" for name, value in oracle.items()]
    return f"oracle{f', {whose}' if whose else ''}: {', '.join(shown)}" if shown else ""


def _caption(*lines: str) -> Text | None:
    from rich.text import Text

    return Text(visible("\n".join(filter(None, lines)))) if any(lines) else None


def _cell(matrix: WinRateMatrix, i: int, j: int) -> str:
    if i == j:
        return "0.5"
    counts = {"unanswered": matrix.unanswered[i][j], "abstained": matrix.abstained[i][j]}
    known = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    note = f" ({known})" if known else ""
    return f"{matrix.win_rates[i][j]:.3f}  [{matrix.low[i][j]:.3f}, {matrix.high[i][j]:.3f}]{note}"


def _shade(rate: float) -> str:
    """Style of a cell, with letters that are legible on its background."""
    end, share = WINS if rate > 0.5 else LOSES, abs(rate - 0.5) * 2.0
    red, green, blue = (round(middle + share * (far - middle)) for middle, far in zip(EVEN, end, strict=True))
    letters = "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 110 else "black"
    return f"{letters} on rgb({red},{green},{blue})"


def _interval(rate: WinRate) -> str:
    return f"{rate.win_rate:.3f}  [{rate.low:.3f}, {rate.high:.3f}]"


def _table(title: str, headings: Iterable[str], rows: Iterable[Sequence[str | tuple[str, str]]]) -> Table:
    """Cells are texts, or texts with a style."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(visible(title)))
    for number, heading in enumerate(headings):
        table.add_column(Text(visible(heading)), justify="right" if number else "left")
    for row in rows:
        table.add_row(*(Text(visible(cell)) if isinstance(cell, str) else Text(visible(cell[0]), cell[1]) for cell in row))
    return table
