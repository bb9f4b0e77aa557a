"""``raypref plan`` and ``raypref train --dry-run``: what they print, and that nothing is started."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

from raypref.cli import plan as plans
from raypref.cli.app import app
from raypref.config import RunConfig
from raypref.plan.hardware import Cluster
from raypref.plan.report import parts
from tests.cli.test_check import good
from tests.tiny_models import make_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"), tied=True)


def config_of(tmp_path: Path, model: Path, count: int = 12, **sections: Any) -> dict[str, Any]:
    records = [{"id": f"r{k}", "prompt": f"w{k + 1} w2"} for k in range(count)]
    loop = {"iterations": 2, "prompts_per_iteration": 5}
    return good(tmp_path, model, *records) | {"output_dir": str(tmp_path / "run"), "loop": loop} | sections


def run(tmp_path: Path, config: dict[str, Any], command: str, *arguments: str) -> tuple[int, str]:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(config))
    done = CliRunner().invoke(app, [command, str(path), *arguments])
    return done.exit_code, done.output + (f"{type(done.exception).__name__}: {done.exception}" if done.exception else "")


def test_what_a_run_needs(tmp_path: Path, model: Path) -> None:
    code, text = run(tmp_path, config_of(tmp_path, model), "plan", "data.shuffle=false", "--gpus=4", "--gpu-memory=24")
    assert code == 0, text
    assert "fits: a GPU with rollout needs 23.4 of 24.0 GiB in phase sync" in text
    assert "of 12 prompts 10 are used, 2 are not; 0 held out; left out: none" in text
    assert "an iteration takes" in text
    assert "the largest that fits, with 5% left:" in text
    assert not (tmp_path / "run").exists()


def test_as_json(tmp_path: Path, model: Path) -> None:
    """Five pairs are one step of 64; the learner's rank, the engine, the reference and the function's actor have a bundle each."""
    code, text = run(tmp_path, config_of(tmp_path, model), "plan", "--json", "--gpu=l4")
    found = json.loads(text)
    assert code == 0
    assert found["fits"] is True
    assert (found["data"]["steps"], found["data"]["share"]["items"], found["data"]["unused"]) == (2, 5, 2)
    assert [bundle["actors"] for bundle in found["bundles"]] == [["learner-0"], ["rollout-0"], ["reference-0"], ["oracle-0"]]
    assert set(found["seconds"]["stages"]) == {"rollout", "judge", "reference", "train", "sync", "evaluate", "checkpoint"}
    assert found["problems"] == []


def test_an_oracle_of_unknown_size_is_said_to_be_left_out(tmp_path: Path, model: Path) -> None:
    """A reward model that is neither here nor in the hub's cache counts as nothing, and the plan says so beside its verdict."""
    oracle = {"type": "reward_model", "path": "nobody/large-reward-model"}
    code, text = run(tmp_path, config_of(tmp_path, model, oracle=oracle), "plan", "--gpu=l4")
    assert code == 0, text
    assert "not counted: the oracle's models: their files are not on this machine (--oracle-gib)" in text
    code, text = run(tmp_path, config_of(tmp_path, model, oracle=oracle), "plan", "--gpu=l4", "--oracle-gib=3")
    assert code == 0, text
    assert "not counted: the oracle" not in text


def test_what_does_not_fit_has_remedies(tmp_path: Path, model: Path) -> None:
    """Passes of a million tokens."""
    code, text = run(tmp_path, config_of(tmp_path, model), "plan", "learner.micro_batch_tokens=10000000", "--gpu=l4")
    assert code == 0
    assert "does not fit: a GPU with " in text
    assert "each of these makes it fit:\n  " in text
    assert "learner.micro_batch_tokens=" in text.partition("each of these")[2].partition("\n\n")[0]


def test_control_tokens_of_the_first_prompt_are_marked(tmp_path: Path, model: Path) -> None:
    config = config_of(tmp_path, model)
    Path(config["data"]["path"]).write_text("".join(json.dumps({"prompt": f"<s>w{k + 1} w2"}) + "\n" for k in range(12)))
    code, text = run(tmp_path, config, "plan", "data.shuffle=false", "data.special_tokens=allow", "--gpu=l4")
    assert code == 0, text
    assert "the first prompt, '0', as the policy sees it: 3 tokens" in text
    assert "\u27e6<s>\u27e7" in text


def test_a_missing_data_file_leaves_the_memory(tmp_path: Path, model: Path) -> None:
    """The plan is shown without steps and times; then the command fails with the error."""
    code, text = run(tmp_path, config_of(tmp_path, model), "plan", f"data.path={tmp_path / 'none.jsonl'}")
    assert code != 0
    assert "GiB of a GPU with learner" in text
    assert "data by iteration" not in text
    assert "none.jsonl: no such file or directory" in text


def test_too_little_data_is_said(tmp_path: Path, model: Path) -> None:
    code, text = run(tmp_path, config_of(tmp_path, model, count=3), "plan")
    assert code != 0
    assert "3 usable prompts, but the run needs at least 10" in text


def test_a_config_that_cannot_run_is_refused(tmp_path: Path, model: Path) -> None:
    code, text = run(tmp_path, config_of(tmp_path, model, selection=None), "plan")
    assert code != 0
    assert "ConfigError: selection: required" in text


def test_a_dry_run_prints_the_resolved_config_and_the_plan(tmp_path: Path, model: Path) -> None:
    code, text = run(tmp_path, config_of(tmp_path, model), "train", "--dry-run", "learner.epochs=2")
    assert code == 0, text
    resolved, _, rest = text.partition("\nraypref on ")
    assert yaml.safe_load(resolved)["learner"] | {"epochs": 2} == yaml.safe_load(resolved)["learner"]
    assert RunConfig.parse(yaml.safe_load(resolved)).loop.prompts_per_iteration == 5
    assert "where the actors land: 1 node of 4 GPUs" in rest
    assert not (tmp_path / "run").exists()


def test_tables_lose_nothing_at_80_columns(tmp_path: Path, model: Path) -> None:
    """The widest: colocated, where each item has its role's name."""
    placement = {"layout": "colocated", "sleep": True, "reference": {"gpus": 1.0}}
    config = config_of(tmp_path, model, placement=placement, loop={"iterations": 1, "overlap": False})
    made, problems = plans.planned(RunConfig.parse(config), Cluster.of(gpu="l4"))
    assert problems == []
    console = Console(width=80, record=True)
    for part in parts(made):
        console.print(part.table)
        assert len(part.title) <= 80
    text = console.export_text()
    assert "\u2026" not in text
    assert "host memory: learner optimizer" in text
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("command", ["plan", "train"])
def test_help_fits_a_screen(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    done = CliRunner().invoke(app, [command, "--help"])
    assert done.exit_code == 0
    assert len(done.output.splitlines()) <= 40
