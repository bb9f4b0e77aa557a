"""The generated pages of docs/, and the columns that they describe."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from raypref.metrics import docs as metric_docs
from raypref.metrics.table import METRICS
from raypref.output import journal
from raypref.output.columns import EVALUATION_COLUMNS, ROLLOUT_COLUMNS
from raypref.types import Comparison

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.mark.parametrize("page", ["metrics.md", "columns.md", "grafana.json"])
def test_the_committed_pages_are_what_the_tables_give(page: str, tmp_path: Path) -> None:
    metric_docs.write_pages(tmp_path)
    assert (DOCS / page).read_text() == (tmp_path / page).read_text(), "run `make docs-tables`"


def test_every_metric_is_on_the_page() -> None:
    page = metric_docs.metrics_page()
    assert [entry.name for entry in METRICS if f"### `{entry.name}`\n\n{entry.definition}\n" not in page] == []


def test_every_column_is_described() -> None:
    assert [column.name for column in ROLLOUT_COLUMNS] == journal.schema().names
    fields = [field.name for field in dataclasses.fields(Comparison)]
    assert sorted(column.name for column in EVALUATION_COLUMNS) == sorted(["iteration", "opponent", *fields])
