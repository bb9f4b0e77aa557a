"""Text and tables on a terminal: characters as they are, no digit lost."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table
from rich.text import Text

from raypref.output.summary import held_out_table, held_out_title, peaks, print_summary, samples_table, seconds_table, win_rate_table
from raypref.output.terminal import counted, print_table, visible


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[INST] x = [a, b] [/INST]", "[INST] x = [a, b] [/INST]"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("\x1b]8;;http://x\x07link", "\\x1b]8;;http://x\\alink"),
        ("a\r\nb\tc", "a\\r\nb\tc"),
        ("\x9b31m", "\\x9b31m"),
        ("\u202eevil", "\\u202eevil"),
        ("half \ud83d", "half \\ud83d"),
        ("\U000e0041", "\\U000e0041"),
        ("日本語 👩‍👩‍👧 क्‍ष", "日本語 👩‍👩‍👧 क्‍ष"),
    ],
)
def test_control_characters_are_shown_and_obeyed_by_nothing(text: str, expected: str) -> None:
    assert visible(text) == expected


@given(st.text())
def test_whatever_a_text_holds_it_can_be_written(text: str) -> None:
    shown = visible(text)
    shown.encode()
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", shown)


def test_things_are_counted_in_english() -> None:
    assert (counted(1, "prompt"), counted(2, "prompt"), counted(0, "prompt")) == ("1 prompt", "2 prompts", "0 prompts")


def printed(table: Table, width: int, *, terminal: bool) -> str:
    console = Console(width=width, file=io.StringIO(), force_terminal=terminal, color_system=None)
    print_table(table, console)
    assert console.width == width
    return console.file.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("width", [40, 80])
def test_no_figure_is_cut_or_folded(width: int, terminal: bool) -> None:
    """Ten columns of 22 characters need more than 200; long names may fold, figures must not."""
    figures = [f"0.{k}45  [0.{k}23, 0.{k}67]" for k in range(10)]
    table = Table(title=Text("t"))
    for heading in ("", *(f"a long heading {k}" for k in range(10))):
        table.add_column(Text(heading))
    for name in ("short", "a-very-long-name-" * 8):
        table.add_row(Text(name), *map(Text, figures))
    text = printed(table, width, terminal=terminal)
    assert all(text.count(figure) == 2 for figure in figures)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width or not terminal
    assert len(re.findall("long", text)) >= 8


SUMMARY: dict[str, Any] = {
    "evaluations": [
        {
            "iteration": 1,
            "base": {"win_rate": 0.5, "low": 0.25, "high": 0.75, "prompts": 1},
            "previous": {"win_rate": 0.5, "low": 0.25, "high": 0.75},
            "response_tokens": 12.5,
            "base_response_tokens": 100000.5,
        }
    ],
    "seconds": {"[bold]stage": 1.5},
    "run_s": 1.0,
    "policy_dir": "/runs/[lr=1]/[/x]/policy",
    "confidence": 0.95,
}


def test_the_loss_on_held_out_examples_at_the_end_of_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    """Of 101 measurements, 12 rows: the first, the last, and every ninth or tenth between them. A loss without pairs has no accuracy."""
    points = [{"iteration": 1, "step": k, "examples": 96, "loss": 0.5 - k / 1000, "rewards/accuracies": 0.625} for k in range(101)]
    print_summary(SUMMARY | {"held_out": points})
    text = capsys.readouterr().out
    assert "loss on 96 held-out examples" in text
    rows = [line.split() for line in text.splitlines() if "0.625" in line]
    assert [int(row[3]) for row in rows] == [0, 9, 18, 27, 36, 45, 55, 64, 73, 82, 91, 100]
    assert "accuracy" in text
    assert "margin" not in text
    text = printed(held_out_table({"held_out": [{"iteration": 1, "step": 0, "examples": 1, "loss": 2.0}]}), 80, terminal=True)
    assert "loss on 1 held-out example" in text
    assert "accuracy" not in text
    texts = {"iteration": 1, "step": 0, "texts": 2, "text_nll": 1.25}
    text = printed(held_out_table({"held_out": [texts]}), 80, terminal=True)
    assert re.search(r"negative log-likelihood on 2 held-out texts", " ".join(text.split()))
    assert re.search(r"1 │ +0 │ +1\.25 ", text)
    assert held_out_title(texts | {"examples": 3}) == "loss on 3 held-out examples, negative log-likelihood on 2 held-out texts"


def test_the_last_lines_of_a_run_show_paths_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    print_summary(SUMMARY)
    text = capsys.readouterr().out
    assert text.endswith("policy: /runs/[lr=1]/[/x]/policy\n")
    assert "[bold]stage" in text
    assert "1 prompt (" in text


@pytest.mark.parametrize("policy", ["/runs/policies/iteration_0002", None])
def test_the_best_policy_is_named_unless_it_is_the_last(policy: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    best = {"checkpoint": "/runs/checkpoints/iteration_0002", "policy": policy, "iteration": 2, "step": 14, "held_out_loss": 0.25}
    print_summary(SUMMARY | {"best": best, "iterations": 3})
    place = policy or "/runs/checkpoints/iteration_0002"
    assert capsys.readouterr().out.endswith(f"policy\nbest policy (held out loss 0.25 after step 14): {place}\n")
    print_summary(SUMMARY | {"best": best, "iterations": 2})
    assert "best" not in capsys.readouterr().out


@pytest.mark.parametrize("make", [win_rate_table, seconds_table])
@pytest.mark.parametrize("terminal", [True, False])
def test_every_table_of_a_run_keeps_its_digits_at_80_columns(make: Any, terminal: bool) -> None:
    text = printed(make(SUMMARY), 80, terminal=terminal)
    expected = ["0.500  [0.250, 0.750]", "12.5", "100000.5"] if make is win_rate_table else ["1.5", "1.0"]
    assert all(figure in text for figure in expected)


@pytest.mark.parametrize(
    "text", ["x = [a, b]; y[i]", "[INST] hello [/INST]", "[/foo]", "\x1b[2Jgone", ":smile: [link=http://x]y[/link]", "a\u2028b"]
)
def test_samples_are_shown_as_they_are(text: str, tmp_path: Path) -> None:
    import json

    (tmp_path / "evaluation").mkdir()
    match = {"prompt": "p", "defender": text, "challenger": "c"}
    path = tmp_path / "evaluation" / "iteration_0001_against_base.jsonl"
    path.write_text(json.dumps(match, ensure_ascii=False) + "\n", encoding="utf-8")
    console = Console(width=100, file=io.StringIO())
    console.print(samples_table(tmp_path, 1))
    assert visible(text) in console.file.getvalue()


def test_the_peak_is_the_highest_win_rate_of_all_evaluations(capsys: pytest.CaptureFixture[str]) -> None:
    """Against base 0.5, 0.75, 0.75: reached first at iteration 2. Against an opponent from a file the first is the best; the previous
    policy is another one each time, so it has no peak."""

    def entry(iteration: int, base: float, gold: float) -> dict[str, Any]:
        rates = {name: {"win_rate": rate, "low": 0.0, "high": 1.0, "prompts": 4} for name, rate in (("base", base), ("gold", gold))}
        return {"iteration": iteration, "step": 10 * iteration, **rates, "previous": rates["base"], "response_tokens": 1.0} | {
            "base_response_tokens": 2.0
        }

    evaluations = [entry(1, 0.5, 0.4), entry(2, 0.75, 0.3), entry(3, 0.75, 0.2)]
    found = peaks(evaluations)
    assert {name: (peak["iteration"], peak["win_rate"], peak["of_evaluations"]) for name, peak in found.items()} == {
        "base": (2, 0.75, 3),
        "gold": (1, 0.4, 3),
    }
    assert peaks([]) == {}
    print_summary(SUMMARY | {"evaluations": evaluations, "peaks": found})
    text = capsys.readouterr().out
    assert "against gold" in text
    assert "peak against base: 0.750  [0.000, 1.000] after iteration 2 (step 20), the highest of 3 evaluations" in text
