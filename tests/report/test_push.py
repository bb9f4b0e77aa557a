"""The model card of a run, and its upload to a stand-in of the hub."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from raypref.cli.app import app
from raypref.errors import ConfigError
from raypref.losses.base import losses
from raypref.output.summary import RunResult
from raypref.report.model_card import PAPERS, model_card, with_card
from raypref.report.run_directory import RunDirectory
from tests.report.hub_server import TOKEN, running_hub
from tests.report.runs import made_run
from tests.tiny_models import make_model

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run whose policies are model directories."""
    directory = tmp_path_factory.mktemp("made")
    made_run(directory / "run", oracle="longer")
    model = make_model(directory / "model", tied=True)
    for policy in (directory / "run" / "policy", directory / "run" / "policies" / "iteration_0002"):
        shutil.rmtree(policy)
        shutil.copytree(model, policy)
    return directory / "run"


def pushed(address: str, *arguments: str, token: str = TOKEN) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own: the hub's address is read when huggingface_hub is imported. Large files go over plain HTTP."""
    hub = {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_TOKEN": token, "HF_HUB_DISABLE_XET": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "raypref", "push", *arguments]
    return subprocess.run(command, env=os.environ | hub, capture_output=True, text=True, timeout=120, cwd=ROOT)


def test_policy_and_card_are_uploaded_as_one_commit(made: Path) -> None:
    with running_hub() as hub:
        done = pushed(hub.address, str(made), "someone/aligned", "--private")
    assert done.returncode == 0, done.stderr
    assert [(entry["name"], entry["organization"], entry["visibility"]) for entry in hub.created] == [("aligned", "someone", "private")]
    assert [commit["repo"] for commit in hub.commits] == ["someone/aligned"]
    files = hub.commits[0]["files"]
    there = {path.relative_to(made / "policy").as_posix(): path.read_bytes() for path in (made / "policy").rglob("*") if path.is_file()}
    assert files == there | {"README.md": model_card(RunDirectory(made), None, "someone/aligned").encode()}
    assert "/someone/aligned/commit/" in done.stdout


def test_an_uploaded_adapter_names_no_local_path(tmp_path: Path) -> None:
    """On this machine it does: peft finds the base policy by it."""
    made_run(tmp_path / "run", held_out=0)
    adapter = tmp_path / "run" / "policy" / "adapter" / "adapter_config.json"
    adapter.parent.mkdir(parents=True)
    (tmp_path / "run" / "policy" / "config.json").touch()
    written = {"peft_type": "LORA", "r": 8, "base_model_name_or_path": str(tmp_path / "base"), "target_modules": ["q_proj"]}
    adapter.write_text(json.dumps(written))
    with running_hub() as hub:
        done = pushed(hub.address, str(tmp_path / "run"), "someone/aligned")
    assert done.returncode == 0, done.stderr
    uploaded = hub.commits[0]["files"]
    assert json.loads(uploaded["adapter/adapter_config.json"]) == written | {"base_model_name_or_path": "base"}
    assert not [name for name, content in uploaded.items() if str(tmp_path).encode() in content]
    assert json.loads(adapter.read_text()) == written


def test_policy_of_an_iteration(made: Path) -> None:
    with running_hub() as hub:
        done = pushed(hub.address, str(made), "someone/aligned", "--iteration", "2")
    assert done.returncode == 0, done.stderr
    assert "visibility" not in hub.created[0]  # the account's own default
    card = hub.commits[0]["files"]["README.md"].decode()
    assert "after iteration 2 of 3" in card
    assert "| 2 |" in card
    assert "| 3 |" not in card


def test_refusals_are_one_paragraph_with_a_remedy(made: Path) -> None:
    """A wrong token, no hub at the address, and a name that no repository has."""
    with running_hub() as hub:
        wrong = pushed(hub.address, str(made), "someone/aligned", token="hf_wrong")
        name = pushed(hub.address, str(made), "a/b/c")
    closed = pushed(hub.address, str(made), "someone/aligned")
    for done, remedy in ((wrong, "hf auth login"), (name, "give OWNER/NAME"), (closed, "HF_ENDPOINT names another one")):
        assert done.returncode == 2
        assert done.stderr.startswith("error: push: ")
        assert remedy in done.stderr
        assert "Traceback" not in done.stderr


def test_card_says_what_the_run_was(made: Path) -> None:
    """Win rates are those of summary.json; settings are those of the config; the metadata is YAML and names no local path."""
    card = model_card(RunDirectory(made))
    for entry in json.loads((made / "summary.json").read_text())["evaluations"]:
        rate = entry["base"]
        assert f"| {entry['iteration']} | {rate['win_rate']:.3f} [{rate['low']:.3f}, {rate['high']:.3f}] |" in card
    assert "| `loss.eta` | `10.0` |" in card
    assert "`tests.report.runs:longer`" in card
    assert "arXiv 2405.00675" in card
    metadata = yaml.safe_load(card.split("---")[1])
    tags = ["raypref", "preference-optimization", "sppo"]
    assert metadata == {"library_name": "transformers", "pipeline_tag": "text-generation", "tags": tags}
    assert "Critical during training" in card
    assert not re.search(r"\n\n\n|\{\{|\{%", card)


def test_a_base_model_of_the_hub_is_named_in_the_metadata(tmp_path: Path) -> None:
    made_run(tmp_path / "run", policy={"path": "owner/base", "dtype": "float32"}, held_out=0)
    card = model_card(RunDirectory(tmp_path / "run"))
    assert yaml.safe_load(card.split("---")[1])["base_model"] == "owner/base"
    assert "The run was not evaluated" in card


def test_dry_run_prints_the_card_alone(made: Path) -> None:
    shown = CliRunner().invoke(app, ["push", str(made), "someone/aligned", "--dry-run"])
    assert shown.exit_code == 0
    assert shown.stdout == model_card(RunDirectory(made), None, "someone/aligned") + "\n"


def test_a_dry_run_refuses_a_name_that_the_hub_would(made: Path) -> None:
    shown = CliRunner().invoke(app, ["push", str(made), "a/b/c", "--dry-run"])
    assert isinstance(shown.exception, ConfigError)
    assert "'a/b/c' is no name of a repository" in str(shown.exception)


def test_every_loss_names_its_paper() -> None:
    """Those of the card are in the paper index; only plain imitation has none."""
    index = (ROOT / "docs" / "paper_index.md").read_text()
    assert {number for _, number in PAPERS.values() if number not in index} == set()
    assert {name for name in losses.names() if ":" not in name} - PAPERS.keys() == {"sft", "best_response_sft"}


def test_a_finished_run_has_the_card_beside_its_policy(tmp_path: Path) -> None:
    config = made_run(tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    result = RunResult(config.output_dir, config.output_dir / "policy", summary)
    assert with_card(result) is result
    assert (tmp_path / "run" / "policy" / "README.md").read_text() == model_card(RunDirectory(tmp_path / "run"))
