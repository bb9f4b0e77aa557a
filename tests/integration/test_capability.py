"""lm-eval on vLLM, on a policy that exists: a task of multiple choice from a local file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from raypref.cli.app import app
from raypref.output.capability import Capability

DATA = os.environ.get("RAYPREF_TEST_DATA")

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(DATA is None, reason="RAYPREF_TEST_DATA names no directory"),
]


def test_a_storyteller_knows_how_stories_go_on(tmp_path: Path) -> None:
    """The model of stories prefers the story's own continuation to letters in a row, 20 times of 20."""
    assert DATA is not None
    stories = Path(DATA) / "tinystories_260k"
    (tmp_path / "tasks").mkdir()
    ends = [" Tim. He liked to play.", " qq zz xx qq zz jj xx"]
    animals = ("dog", "cat", "girl", "boy", "bird") * 4
    records = [{"start": f"Once upon a time, there was a little {animal} named", "ends": ends, "right": 0} for animal in animals]
    (tmp_path / "stories.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    task = {
        "task": "stories",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "stories.jsonl")}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{start}}",
        "doc_to_choice": "{{ends}}",
        "doc_to_target": "right",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    (tmp_path / "tasks" / "stories.yaml").write_text(yaml.safe_dump(task))
    config = {
        "policy": {"path": str(stories / "hf_head32"), "dtype": "float32"},
        "data": {"chat_template": False},
        "loss": {"type": "sppo"},
        "placement": {"device": "cpu"},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    options = {"--tasks": "stories:0", "--include-path": tmp_path / "tasks", "--output": tmp_path / "out"}
    arguments = ["capability", tmp_path / "run.yaml", *(part for option in options.items() for part in option)]
    result = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    figure = Capability.read(tmp_path / "out" / "policy.json").tasks["stories"]
    assert (figure.metric, figure.value, figure.examples) == ("acc,none", 1.0, 0)
