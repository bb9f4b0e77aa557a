"""What a model card shows of settings: no local path, whatever they are in."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from raypref.report.model_card import model_card
from raypref.report.published import on_the_hub, published, source
from raypref.report.run_directory import RunDirectory
from tests.report.runs import made_run


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("/home/me/data/prompts.jsonl", "prompts.jsonl"),
        ("~/models/base", "base"),
        ("../mine/judge.py:Judge", "judge.py:Judge"),
        (Path("models/base"), "base"),
        ("/", "a local directory"),
        (["/a/b", {"x": "/c/d@2"}], ["b", {"x": "d@2"}]),
        ("owner/name", "owner/name"),
        ("package.module:Class", "package.module:Class"),
        ("http://10.0.0.7:8000/v1", "http address"),
        ({"base_url": "https://judge.intern.example.com/v1"}, {"base_url": "https address"}),
        ("see https://example.com", "see https://example.com"),
        ("Which is better?\n/A/ or /B/", "Which is better?\n/A/ or /B/"),
        (0.5, 0.5),
        (None, None),
    ],
)
def test_names_in_place_of_paths(value: Any, shown: Any) -> None:
    assert published(value) == shown


def test_a_path_that_is_there_is_no_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert on_the_hub("owner/name")
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert not on_the_hub("owner/name")
    assert source("owner/name") == "`name`, a local directory"


def test_a_card_names_no_local_path(tmp_path: Path) -> None:
    """Policy, data, and a setting within a section; the name of each is there."""
    policy = tmp_path / "models" / "base-of-mine"
    policy.mkdir(parents=True)
    sections: dict[str, Any] = {
        "policy": {"path": str(policy), "dtype": "float32"},
        "data": {"path": str(tmp_path / "data" / "prompts.jsonl"), "held_out": str(tmp_path / "data" / "held.jsonl")},
        "judging": {"cache": str(tmp_path / "verdicts")},
        "evaluation": {"bootstrap_resamples": 50, "against": {"earlier": str(tmp_path / "answers.jsonl")}},
    }
    made_run(tmp_path / "run", held_out=0, **sections)
    card = model_card(RunDirectory(tmp_path / "run"))
    assert str(tmp_path) not in card
    assert not re.search(r"[`' (]/\w", card)
    assert "- Base model: `base-of-mine`, a local directory" in card
    assert "- Data: `prompts.jsonl`, a local file (prompts)" in card
    assert "| `judging.cache` | `verdicts` |" in card
    assert "answers.jsonl" in card
