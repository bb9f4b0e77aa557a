"""Results of evaluations as tables on the terminal and as JSON. Each table has a row a policy, n or pair; win rates come with intervals."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raypref.evaluation.best_checkpoint import BestCheckpoint
from raypref.evaluation.length_controlled import LengthControlled
from raypref.evaluation.references import ReferenceWinRate
from raypref.evaluation.reranking import BestOf
from raypref.evaluation.win_rate import WinRate
from raypref.evaluation.win_rate_matrix import WinRateMatrix

if TYPE_CHECKING:
    from rich.table import Table


def write_json(path: Path, result: Any) -> None:
    """A result, or a list of them, as JSON with its fields' names.

    Args:
        path: replaced.
        result: one of the frozen dataclasses of ``raypref.evaluation``, or a sequence or mapping of them.
    """
    made: Any
    if isinstance(result, Mapping):
        made = {name: asdict(item) for name, item in result.items()}
    else:
        made = [asdict(item) for item in result] if isinstance(result, Sequence) else asdict(result)
    path.write_text(json.dumps(made, indent=2, allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8")


def matrix_table(matrix: WinRateMatrix) -> Table:
    """Win rates of the rows against the columns, and the mean length of the rows' responses."""
    headings = ["", *matrix.names, matrix.unit, "unmatched"]
    rows = []
    for i, name in enumerate(matrix.names):
        cells = [_cell(matrix, i, j) for j in range(len(matrix.names))]
        rows.append([name, *cells, f"{matrix.lengths[i]:.1f}", str(matrix.unmatched[i])])
    table = _table(f"win rate of the row against the column, {matrix.prompts} prompts ({matrix.confidence:.0%} interval)", headings, rows)
    beyond = "beyond chance" if matrix.cyclic_beyond_chance else "within chance"
    table.caption = f"the majority relation {f'has a cycle, {beyond}' if matrix.cyclic else 'has no cycle'}"
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
    return _table(f"win rate against {', '.join(dict.fromkeys(result.reference for result in results))}", headings, rows)


def best_of_table(curve: Sequence[BestOf]) -> Table:
    """Win rate of the best of n against the first response."""
    rows = [
        [
            str(point.n),
            _interval(point.against_first),
            str(point.against_first.unanswered),
            "" if point.length is None else f"{point.length:.1f}",
        ]
        for point in curve
    ]
    return _table("best of n against the first response", ["n", "win rate", "unanswered", "length"], rows)


def checkpoint_table(chosen: BestCheckpoint) -> Table:
    """Candidates from the best to the worst; an asterisk where the interval overlaps that of the best."""
    rows = [
        [
            candidate.name + (" *" if candidate.name in chosen.undecided else ""),
            _interval(candidate.win_rate),
            f"{candidate.behind:.3f}  [{candidate.behind_low:.3f}, {candidate.behind_high:.3f}]",
            f"{candidate.length:.1f}",
        ]
        for candidate in chosen.candidates
    ]
    table = _table(f"best checkpoint: {chosen.best}", ["", "win rate", "behind the best", chosen.unit], rows)
    table.caption = "* the interval overlaps that of the best" if chosen.undecided else None
    return table


def length_controlled_table(results: Mapping[str, LengthControlled]) -> Table:
    """Win rates at equal lengths beside those as judged, and what the judge adds for length."""
    headings = ["", "length-controlled", "as judged", "theta", "phi (length)", "psi (difficulty)", "unanswered"]
    rows = [
        [
            name,
            f"{found.win_rate:.3f}  [{found.low:.3f}, {found.high:.3f}]",
            f"{found.raw:.3f}",
            *(f"{value:+.3f}" for value in (found.theta, found.phi, found.psi)),
            str(found.unanswered),
        ]
        for name, found in results.items()
    ]
    return _table("win rate against the baseline at equal lengths", headings, rows)


def revision_table(curve: Sequence[WinRate], opponent: str) -> Table:
    """Win rate after each revision."""
    rows = [[str(number), _interval(point), str(point.unanswered)] for number, point in enumerate(curve)]
    return _table(f"win rate against {opponent} by number of revisions", ["revisions", "win rate", "unanswered"], rows)


def _cell(matrix: WinRateMatrix, i: int, j: int) -> str:
    if i == j:
        return "0.5"
    note = f" ({matrix.unanswered[i][j]} unanswered)" if matrix.unanswered[i][j] else ""
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
