"""What ``make bench`` writes, of benchmarks that are two lines long."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks.report import BEGIN, END, ask, status_of, table, write

FIGURE = {"name": "fast", "ratio": 0.9, "bar": 1.0, "unit": "a over b", "samples": 5}


def prints(name: str, *lines: object, say: str = "", status: int = 0) -> list[str]:
    """A command that prints JSON lines, says something on standard error, and ends with a status."""
    text = "\n".join(json.dumps(line) for line in lines)
    return [sys.executable, "-c", f"import sys; print({text!r}); print({say!r}, file=sys.stderr); sys.exit({status})"]


def test_missed_bar_is_shown_and_an_error_only_where_asked() -> None:
    missed = ask("speed", prints("speed", FIGURE))
    assert "| `fast` | 0.90 | 1 | missed | a over b | 5 |" in table([missed])
    assert [status_of([missed], strict) for strict in (False, True)] == [0, 1]


def test_what_cannot_run_is_listed_with_its_reason() -> None:
    left_out = ask("peer", prints("peer", say="peer: not installed"))
    assert "- `peer` not run: not installed" in table([left_out])
    part = ask("peer", prints("peer", FIGURE | {"bar": 0.0}, say="peer: not installed"))
    assert "| reported |" in table([part])
    assert "- `peer` left out: not installed" in table([part])
    assert status_of([left_out, part], strict=True) == 0


def test_failure_and_time_limit_are_errors() -> None:
    failed = ask("speed", prints("speed", FIGURE, status=3))
    hung = ask("slow", [sys.executable, "-c", "import time; time.sleep(60)"], limit_s=0.2)
    assert (failed.status, hung.status) == (3, 124)
    assert "- `speed` failed with status 3" in table([failed, hung])
    assert "- `slow` failed with status 124" in table([failed, hung])
    assert status_of([hung], strict=False) == 1


def test_claims_are_counted() -> None:
    claims = [{"name": "a", "value": 1, "holds": True}, {"name": "b", "value": 1, "holds": False}, {"name": "c", "value": 1, "holds": None}]
    finding = ask("theory", prints("theory", *claims, status=1))
    assert "- `theory`: 1 of 2 claims hold" in table([finding])
    assert "failed" not in table([finding])


def test_text_around_the_table_stays(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"above\n{BEGIN}\nold\n{END}\nbelow\n")
    finding = ask("speed", prints("speed", FIGURE))
    write([finding], tmp_path)
    write([finding], tmp_path)
    assert readme.read_text() == f"above\n{BEGIN}\n{table([finding])}\n{END}\nbelow\n"
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["benchmarks"]["speed"]["lines"] == [FIGURE | {"verdict": "missed"}]
    readme.write_text("no markers")
    with pytest.raises(ValueError, match="no <!-- results -->"):
        write([finding], tmp_path)
