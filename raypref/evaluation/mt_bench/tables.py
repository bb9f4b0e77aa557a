"""MT-Bench's figures as tables on the terminal: one column per model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from raypref.evaluation.mt_bench.scores import PairScores, Scores

if TYPE_CHECKING:
    from rich.table import Table


def score_table(results: Sequence[Scores]) -> Table:
    """One column per model: score, interval, turns, categories."""
    rows = {
        "score": [f"{result.score:.2f}" for result in results],
        "interval": [f"[{result.low:.2f}, {result.high:.2f}]" for result in results],
        **{f"turn {turn}": [_figure(result.turns.get(turn), 2) for result in results] for turn in (1, 2)},
        **{name: [_figure(result.categories.get(name), 2) for result in results] for name in _categories(results)},
        "judgments": [str(result.judgments) for result in results],
        "unreadable": [str(result.unreadable) for result in results],
    }
    return _table("MT-Bench, 1 to 10", [result.model for result in results], rows)


def pair_table(results: Sequence[PairScores]) -> Table:
    """One column per model: win rate, interval, wins, losses, ties, categories."""
    rows = {
        "win rate": [f"{result.win_rate:.3f}" for result in results],
        "interval": [f"[{result.low:.3f}, {result.high:.3f}]" for result in results],
        **{name: [str(getattr(result, name)) for result in results] for name in ("wins", "losses", "ties")},
        **{name: [_figure(result.categories.get(name), 3) for result in results] for name in _categories(results)},
        "orders disagree": [f"{result.other_order_disagrees:.3f}" for result in results],
        "unreadable": [str(result.unreadable) for result in results],
    }
    return _table(f"MT-Bench, win rate against {results[0].against}", [result.model for result in results], rows)


def _categories(results: Sequence[Scores] | Sequence[PairScores]) -> list[str]:
    return list(dict.fromkeys(name for result in results for name in result.categories))


def _figure(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _table(title: str, models: Sequence[str], rows: Mapping[str, Sequence[str]]) -> Table:
    from rich.table import Table

    from raypref.output.terminal import visible

    table = Table(title=title)
    table.add_column("")
    for model in models:
        table.add_column(visible(model), justify="right")
    for name, figures in rows.items():
        table.add_row(name, *figures)
    return table
