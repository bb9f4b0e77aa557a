"""SPO's TinyStories experiment in small, by the commands of docs/papers/spo.md: stories from nothing, ranked by an endpoint, trained on in
passes, evaluated against best-response SFT; needs RAYPREF_TEST_DATA."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import raypref
from examples.spo_tinystories import rankings
from raypref.cli.app import app
from raypref.config import RunConfig
from raypref.output.run_reference import RunReference
from tests.integration.test_stories import DATA, livelier
from tests.oracles.http_server import Request, Response, completion, serving

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.usefixtures("cluster"),
    pytest.mark.skipif(DATA is None, reason="RAYPREF_TEST_DATA names no directory"),
]

ORDINALS = ("1st", "2nd", "3rd", "4th")


def _ranked(request: Request) -> Response:
    """Ranks the four stories by their exclamation marks, questions and quotes; a tie by the text, so that both orders agree."""
    stories = re.split(r"\*\*Story \d:\*\*\n", request.text.partition("**Your Task:**")[0])[1:]
    order = sorted(range(4), key=lambda k: (-sum(stories[k].count(mark) for mark in '!?"'), stories[k]))
    return completion("\n".join(f"**{ordinal} Place:** Story {k + 1}" for ordinal, k in zip(ORDINALS, order, strict=True)))


def _config(directory: Path, name: str, **sections: Any) -> dict[str, Any]:
    assert DATA is not None
    values: dict[str, Any] = {
        "output_dir": str(directory / name),
        "policy": {"path": str(Path(DATA) / "tinystories_260k" / "hf_head32"), "dtype": "float32"},
        "data": {
            "type": "preferences",
            "path": str(directory / "rankings.jsonl"),
            "held_out": str(directory / "held_out.jsonl"),
            "chat_template": False,
            "empty_prompts": True,
            "passes": 2,
        },
        "loop": {"iterations": 2},
        "rollout": {"max_tokens": 48, "kv_cache_gib": 0.25},
        "learner": {"global_batch": 16, "optimizer": {"lr": 1e-3}, "schedule": {"type": "constant", "warmup_steps": 2}},
        "placement": {"device": "cpu", "oracle": {"gpus": 0}},
        "evaluation": {"bootstrap_resamples": 200},
    }
    for key, section in sections.items():
        values[key] = values.get(key, {}) | section
    return values


def test_stories_from_nothing_ranked_trained_on_and_compared_at_every_pass(tmp_path: Path) -> None:
    """48 sets of four stories give as many rankings; two passes of three steps each, evaluated and kept; the peak is the higher one."""
    rankings.main(["nothing", "48", str(tmp_path / "sets.jsonl")])
    rankings.main(["nothing", "32", str(tmp_path / "held_out.jsonl")])
    base = RunConfig.parse(_config(tmp_path, "sampling", loss={"type": "spo", "form": "ranking"}))
    raypref.generate(base, str(tmp_path / "sets.jsonl"), tmp_path / "stories.jsonl", responses=4)
    rankings.main(["ask", str(tmp_path / "stories.jsonl"), str(tmp_path / "questions.jsonl")])
    with serving(_ranked) as server:
        judge = {"type": "judge", "model": "m", "base_url": server.url, "key_env": None}
        (tmp_path / "judge.yaml").write_text(json.dumps(_config(tmp_path, "asking", loss={"type": "dpo"}, oracle=judge)))
        files = ["--questions", str(tmp_path / "questions.jsonl"), "--output", str(tmp_path / "answers.jsonl")]
        asked = CliRunner().invoke(app, ["ask", str(tmp_path / "judge.yaml"), *files], catch_exceptions=False)
    assert asked.exit_code == 0, asked.output
    rankings.main(["read", *(str(tmp_path / f"{name}.jsonl") for name in ("stories", "answers", "rankings"))])
    kept = (tmp_path / "rankings.jsonl").read_text().splitlines()
    assert len(kept) == 48

    raypref.run(RunConfig.parse(_config(tmp_path, "sft", loss={"type": "best_response_sft"})), oracle=livelier, callbacks=[])
    spo = _config(
        tmp_path,
        "spo",
        loss={"type": "spo", "form": "ranking", "alpha": 0.1, "decay": 0.5},
        evaluation={"against": {"sft": f"{tmp_path / 'sft'}@2"}},
    )
    summary = raypref.run(RunConfig.parse(spo), oracle=livelier, callbacks=[]).summary
    assert [(entry["iteration"], entry["step"]) for entry in summary["evaluations"]] == [(1, 3), (2, 6)]
    rates = [entry["sft"]["win_rate"] for entry in summary["evaluations"]]
    assert summary["peaks"]["sft"]["win_rate"] == max(rates)
    assert summary["peaks"]["base"]["of_evaluations"] == 2
    for iteration in (1, 2):
        named = RunReference.read(f"{tmp_path / 'spo'}@{iteration}")
        assert named is not None
        assert (Path(named.policy()) / "config.json").exists()
        assert len(named.answers().read_text().splitlines()) == 32
