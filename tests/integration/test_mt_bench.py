"""MT-Bench through a real engine and a local judge: both turns of every question, graded, in FastChat's files."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from raypref.cli.app import app
from raypref.evaluation.mt_bench.files import read_answers, read_questions
from raypref.evaluation.mt_bench.questions import TEMPERATURES
from tests.oracles.http_server import Request, completion, serving

DATA = os.environ.get("RAYPREF_TEST_DATA")
TEMPLATE = "{% for turn in messages %}{{ turn.role }}: {{ turn.content }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.usefixtures("cluster"),
    pytest.mark.skipif(DATA is None, reason="RAYPREF_TEST_DATA names no directory"),
]


def test_eighty_questions_twice_and_graded(tmp_path: Path) -> None:
    """The judge gives as many points as the answer has letters, from 1 to 10. The context of 512 tokens leaves no room for some turns."""
    assert DATA is not None
    questions, prompts = (Path(DATA) / "mt_bench" / name for name in ("mt_bench_question.jsonl", "judge_prompts.jsonl"))
    policy = shutil.copytree(Path(DATA) / "tinystories_260k" / "hf_head32", tmp_path / "policy")
    settings = json.loads((policy / "tokenizer_config.json").read_text())
    (policy / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": TEMPLATE}))

    def reply(request: Request) -> Any:
        return completion(f"Rating: [[{1 + len(request.text) % 10}]]")

    def command(*arguments: str | Path) -> None:
        result = CliRunner().invoke(app, ["mt-bench", *map(str, arguments)], catch_exceptions=False)
        assert result.exit_code == 0, result.output

    with serving(reply) as server:
        values: dict[str, Any] = {
            "policy": {"path": str(policy), "dtype": "float32"},
            "loss": {"type": "sppo"},
            "oracle": {"type": "judge", "model": "judge", "base_url": server.url, "key_env": None},
            "rollout": {"max_tokens": 32, "kv_cache_gib": 0.25},
            "placement": {"device": "cpu", "oracle": {"gpus": 0}},
        }
        (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
        answers = tmp_path / "stories.jsonl"
        command("answer", tmp_path / "run.yaml", "--questions", questions, "--output", answers)
        asked = read_questions(questions)
        given = read_answers(answers, asked)
        assert [len(given[one.id]) for one in asked] == [2] * 80
        assert sum(bool(text) for turns in given.values() for text in turns) > 100
        common = (
            "--questions",
            questions,
            "--prompts",
            prompts,
            "--references",
            Path(DATA) / "mt_bench" / "mt_bench_reference_gpt-4.jsonl",
        )
        command("grade", tmp_path / "run.yaml", *common, "--answers", answers, "--output", tmp_path / "out")
    (scores,) = json.loads((tmp_path / "out" / "mt_bench.json").read_text())
    assert (scores["model"], scores["judgments"], scores["unreadable"]) == ("stories", 160, 0)
    assert set(scores["categories"]) == set(TEMPERATURES)
