"""Tables of evaluations, at 80 columns: all digits, names as they are."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console
from rich.table import Table

from raypref.evaluation import tables
from raypref.evaluation.agreement import Agreement
from raypref.evaluation.best_checkpoint import BestCheckpoint, Candidate
from raypref.evaluation.bootstrap import HalfSamples
from raypref.evaluation.length_controlled import LengthControlled
from raypref.evaluation.references import ReferenceWinRate, RevisionScore
from raypref.evaluation.reranking import BestOf
from raypref.evaluation.win_rate import WinRate
from raypref.evaluation.win_rate_matrix import WinRateMatrix
from raypref.output.terminal import print_table
from raypref.types import Total

NAME = "[/INST]-checkpoint-after-a-long-name-of-its-run-[red]"
RATE = WinRate(0.512345, 0.451234, 0.574321, 0.95, 1000, 12)
HALF = HalfSamples(0.513, 0.027, 100, 500)
ORACLE = {"oracle/cost_total": Total(12345.75)}
SQUARE = ((0.5, 0.512345), (0.487655, 0.5))
COUNTS = ((0, 12), (12, 0))

CASES: list[tuple[Table, list[str]]] = [
    (
        tables.matrix_table(
            WinRateMatrix(
                (NAME, "b"), SQUARE, SQUARE, SQUARE, 0.95, 1, COUNTS, COUNTS, (3, 4), (123.45, 67.89), "characters", False, False, ORACLE
            )
        ),
        ["0.512  [0.512, 0.512] (12 unanswered, 12 abstained)", "0.488  [0.488, 0.488]", "123.5", "67.9", "12,345.75", "1 prompt ("],
    ),
    (
        tables.reference_table(
            [ReferenceWinRate(NAME, "human", RATE, HALF, RATE, HALF, 512, 11, 477, 12, 1234.5, 1111.25, "characters", (1, 2), ORACLE)]
        ),
        ["0.512  [0.451, 0.574]", "0.513 ± 0.027", "512 / 11 / 477", "1234.5 against 1111.2 characters", "12,345.75"],
    ),
    (tables.best_of_table([BestOf(16, RATE, 1234.5, "characters", 123456)]), ["16", "0.512  [0.451, 0.574]", "123456", "1234.5"]),
    (
        tables.checkpoint_table(BestCheckpoint(NAME, (Candidate(NAME, RATE, 1234.5, 77, 0.125, 0.0625, 0.25),), (), "tokens", ORACLE)),
        ["0.512  [0.451, 0.574]", "0.125  [0.062, 0.250]", "12", "77", "1234.5"],
    ),
    (
        tables.length_controlled_table(
            {
                NAME: LengthControlled(
                    0.512345, 0.451234, 0.574321, 0.95, 0.498, 0.125, 1.75, -2.25, 1.0, 1000, 12, 1234.5, 1111.25, "characters", ORACLE
                )
            }
        ),
        ["0.512  [0.451, 0.574]", "0.498", "+0.125", "+1.750", "-2.250", "1234.5 against 1111.2 characters"],
    ),
    (
        tables.agreement_table(Agreement(0.6125, 0.5, 0.75, 0.375, 0.25, 0.5, 0.875, 0.95, 1, 7, ((1234567, 2, 3), (4, 5, 6), (7, 8, 9)))),
        ["1234567", "agreement 0.613  [0.500, 0.750]", "1 comparison ("],
    ),
    (
        tables.revision_table(
            [RevisionScore(NAME, "gold", RATE, HALF, RATE, HALF, 512, 11, 477, 12, 1234.5, 1111.25, "tokens", (1, 2), ORACLE, 3)], NAME
        ),
        ["0.512  [0.451, 0.574]", "0.513 ± 0.027", "512 / 11 / 477", "12", "1234.5"],
    ),
]


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize(("table", "figures"), CASES)
def test_no_figure_is_cut_at_80_columns(table: Table, figures: list[str], terminal: bool) -> None:
    console = Console(width=80, file=io.StringIO(), force_terminal=terminal, color_system=None)
    assert isinstance(console.file, io.StringIO)
    print_table(table, console)
    text = console.file.getvalue()
    joined = re.sub(r"\s+", " ", text.replace("│", " "))
    assert [figure for figure in figures if re.sub(r"\s+", " ", figure) not in joined] == []
    assert "…" not in text
    if terminal:
        assert max(map(len, text.splitlines())) <= 80
