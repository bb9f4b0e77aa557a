"""Results of evaluations as tables on the terminal and as JSON. Each table has a row a policy, n or pair; win rates come with intervals
and mean lengths. What the oracle observed, its costs for one, stands below."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raypref.evaluation.best_checkpoint import BestCheckpoint
from raypref.evaluation.length_controlled import LengthControlled
from raypref.evaluation.references import ReferenceWinRate
from raypref.evaluation.reranking import BestOf
from raypref.evaluation.revisions import Revision
from raypref.evaluation.win_rate import WinRate
from raypref.evaluation.win_rate_matrix import WinRateMatrix
from raypref.types import Total

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

OPEN = ("unanswered", "abstained")
"""Headings of what the oracle left open: prompts altogether, comparisons of one response with one."""


def write_json(path: Path, result: Any) -> None:
    """A result, or a list of them, as JSON with its fields' names; NaN becomes null.

    Args:
        path: replaced.
        result: one of the frozen dataclasses of ``raypref.evaluation``, or a sequence or mapping of them.
    """
    made: Any
    if isinstance(result, Mapping):
        made = {name: asdict(item) for name, item in result.items()}
    else:
        made = [asdict(item) for item in result] if isinstance(result, Sequence) else asdict(result)
    path.write_text(json.dumps(_without_nan(made), indent=2, allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8")


def matrix_table(matrix: WinRateMatrix) -> Table:
    """Win rates of the rows against the columns, and the mean length of the rows' responses."""
    headings = ["", *matrix.names, matrix.unit, "unmatched"]
    rows = []
    for i, name in enumerate(matrix.names):
        cells = [_cell(matrix, i, j) for j in range(len(matrix.names))]
        rows.append([name, *cells, f"{matrix.lengths[i]:.1f}", str(matrix.unmatched[i])])
    table = _table(f"win rate of the row against the column, {matrix.prompts} prompts ({matrix.confidence:.0%} interval)", headings, rows)
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
            f"{result.score_spread.mean:.3f} ± {result.score_spread.deviation:.3f}",
            _interval(result.preference),
            f"{result.preference_spread.mean:.3f} ± {result.preference_spread.deviation:.3f}",
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
    return _table("best of n against the first response", ["n", "win rate", *OPEN, curve[0].unit or "length"], rows)


def checkpoint_table(chosen: BestCheckpoint) -> Table:
    """Candidates from the best to the worst; an asterisk where the interval overlaps that of the best."""
    rows = [
        [
            candidate.name + (" *" if candidate.name in chosen.undecided else ""),
            _interval(candidate.win_rate),
            f"{candidate.behind:.3f}  [{candidate.behind_low:.3f}, {candidate.behind_high:.3f}]",
            str(candidate.win_rate.unanswered),
            str(candidate.abstained),
            f"{candidate.length:.1f}",
        ]
        for candidate in chosen.candidates
    ]
    table = _table(f"best checkpoint: {chosen.best}", ["", "win rate", "behind the best", *OPEN, chosen.unit], rows)
    table.caption = _caption("* the interval overlaps that of the best" if chosen.undecided else "", _observed(chosen.oracle))
    return table


def length_controlled_table(results: Mapping[str, LengthControlled]) -> Table:
    """Win rates at equal lengths beside those as judged, and what the judge adds for length."""
    headings = ["", "length-controlled", "as judged", "theta", "phi (length)", "psi (difficulty)", "unanswered", "length"]
    rows = [
        [
            name,
            f"{found.win_rate:.3f}  [{found.low:.3f}, {found.high:.3f}]",
            f"{found.raw:.3f}",
            *(f"{value:+.3f}" for value in (found.theta, found.phi, found.psi)),
            str(found.unanswered),
            f"{found.length:.1f} against {found.baseline_length:.1f} {found.unit or ''}".rstrip(),
        ]
        for name, found in results.items()
    ]
    table = _table("win rate against the baseline at equal lengths", headings, rows)
    table.caption = _caption(*(_observed(found.oracle, name) for name, found in results.items()))
    return table


def revision_table(curve: Sequence[Revision], opponent: str) -> Table:
    """Win rate after each revision."""
    rows = [[str(point.revisions), _interval(point), str(point.unanswered), f"{point.length:.1f}"] for point in curve]
    table = _table(f"win rate against {opponent} by number of revisions", ["revisions", "win rate", "unanswered", curve[0].unit], rows)
    table.caption = _caption(*(_observed(point.oracle, str(point.revisions)) for point in curve))
    return table


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _observed(oracle: Mapping[str, float], whose: str = "") -> str:
    """What the oracle observed in one line; empty where that is nothing."""
    figures = [f"{name.removeprefix('oracle/')} {value:{',.10g' if isinstance(value, Total) else '.3f'}}" for name, value in oracle.items()]
    return f"oracle{f', {whose}' if whose else ''}: {', '.join(figures)}" if figures else ""


def _caption(*lines: str) -> Text | None:
    from rich.text import Text

    return Text("\n".join(filter(None, lines))) if any(lines) else None


def _cell(matrix: WinRateMatrix, i: int, j: int) -> str:
    if i == j:
        return "0.5"
    counts = {"unanswered": matrix.unanswered[i][j], "abstained": matrix.abstained[i][j]}
    known = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    note = f" ({known})" if known else ""
    return f"{matrix.win_rates[i][j]:.3f}  [{matrix.low[i][j]:.3f}, {matrix.high[i][j]:.3f}]{note}"


def _interval(rate: WinRate) -> str:
    return f"{rate.win_rate:.3f}  [{rate.low:.3f}, {rate.high:.3f}]"


def _table(title: str, headings: Iterable[str], rows: Iterable[Sequence[str]]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title))
    for number, heading in enumerate(headings):
        table.add_column(Text(heading), justify="right" if number else "left")
    for row in rows:
        table.add_row(*map(Text, row))
    return table
