"""``raypref sweep``: its runs by hand, with a command of plain Python in place of ``raypref train``."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

import raypref
from raypref import compose
from raypref.cli import supervision
from raypref.cli.app import app
from raypref.cli.sweep import runs_of, split_values
from raypref.errors import ConfigError, DataError, RunFailed
from tests.cli.test_evaluate import ORACLE, Longer

TRAIN = """
import json, sys, yaml, pathlib
from raypref.config import load_config
arguments = [word for word in sys.argv[3:] if not word.startswith("--")]
config = load_config(sys.argv[2], arguments)
with open("log", "a") as log:
    log.write(f"{sys.argv[1]} {config.loss.eta:g} {config.learner.optimizer.lr:g} {sys.argv[-1]}\\n")
if config.loss.eta == 500 and not pathlib.Path("mended").exists():
    sys.exit(3)
run = config.output_dir
(run / "evaluation").mkdir(parents=True, exist_ok=True)
(run / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
for iteration in range(3):
    rows = [{"id": str(k), "prompt": f"p{k}", "responses": ["x" * int(config.loss.eta / 100 + iteration)]} for k in range(4)]
    (run / "evaluation" / f"iteration_{iteration:04d}.jsonl").write_text("".join(json.dumps(row) + "\\n" for row in rows))
(run / "summary.json").write_text("{}")
"""
"""Answers of eta / 100 + t letters; the run with eta 500 fails until it is mended."""


@pytest.fixture
def sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(raypref.__file__).parent.parent))  # the runs find ``tests`` there
    monkeypatch.setattr(supervision, "raypref_command", lambda: [sys.executable, "-c", TRAIN])

    def with_oracle(config: Any, work: Callable[[Any], Any]) -> Any:
        return asyncio.run(work(Longer()))

    monkeypatch.setattr(compose, "with_oracle", with_oracle)
    sections = {"policy": {"path": "p"}, "loss": {"type": "sppo"}, "oracle": ORACLE, "selection": {"type": "best_worst"}}
    data = {"path": "d.jsonl", "held_out_prompts": 4}
    Path("run.yaml").write_text(yaml.safe_dump(sections | {"data": data, "evaluation": {"bootstrap_resamples": 50}}))
    return tmp_path


def sweep(*arguments: str) -> str:
    result = CliRunner().invoke(
        app, ["sweep", "run.yaml", *arguments, "--output", "runs/s"], catch_exceptions=False, env={"COLUMNS": "200"}
    )
    return " ".join(result.output.split())


@pytest.mark.usefixtures("sandbox")
def test_a_sweep_stops_at_a_failure_continues_and_chooses() -> None:
    """Longer answers win: of eta 100, 500 and 800 the last, whose answers have 10 letters after two iterations."""
    with pytest.raises(RunFailed, match="run eta=500 ended with exit code 3"):
        sweep("loss.eta=100,500,800", "learner.optimizer.lr=1e-6")
    assert Path("log").read_text() == "train 100 1e-06 --resume=auto\ntrain 500 1e-06 --resume=auto\n"
    Path("mended").touch()
    shown = sweep("loss.eta=100,500,800", "learner.optimizer.lr=1e-6")
    assert Path("log").read_text().splitlines()[2:] == ["train 500 1e-06 --resume=auto", "train 800 1e-06 --resume=auto"]
    assert "3 runs: eta=100, eta=500, eta=800" in shown
    assert json.loads(Path("runs/s/best.json").read_text())["best"] == "eta=800"
    sweep("loss.eta=100,500,800", "learner.optimizer.lr=1e-6", "--every")
    assert len(Path("log").read_text().splitlines()) == 4
    best = json.loads(Path("runs/s/best.json").read_text())
    assert best["best"] == "eta=800@2"
    assert len(best["candidates"]) == 6


def test_runs_are_the_combinations() -> None:
    runs = runs_of(Path("s"), ["loss.eta=1,2", "learner.optimizer.lr=1e-6,2e-6", "policy.lora.target_modules=[q,v]"])
    assert [run.directory.name for run in runs] == ["eta=1,lr=1e-6", "eta=1,lr=2e-6", "eta=2,lr=1e-6", "eta=2,lr=2e-6"]
    assert runs[3].overrides[:3] == ("loss.eta=2", "learner.optimizer.lr=2e-6", "policy.lora.target_modules=[q,v]")
    assert split_values('1,[2,{a: 3,b: 4}],"x,y"') == ["1", "[2,{a: 3,b: 4}]", '"x,y"']
    for wrong, message in (("loss.eta", "expected key=value"), ("loss.eta=1,", "expected key"), ("output_dir=x", "own in --output")):
        with pytest.raises(ConfigError, match=message):
            runs_of(Path("s"), [wrong])
    with pytest.raises(ConfigError, match="gives a value twice"):
        runs_of(Path("s"), ["loss.eta=1,1"])


@pytest.mark.usefixtures("sandbox")
def test_every_run_is_checked_before_the_first_starts() -> None:
    with pytest.raises(ConfigError, match=r"run eta=-1: loss\.eta"):
        sweep("loss.eta=100,-1")
    with pytest.raises(ConfigError, match="a sweep chooses by win rates on held-out prompts"):
        sweep("loss.eta=100,200", "data.held_out_prompts=0")
    with pytest.raises(DataError, match=r"nothing\.jsonl: no such file"):
        sweep("loss.eta=100,200", "--against", "human=nothing.jsonl")
    assert not Path("log").exists()


@pytest.mark.usefixtures("sandbox")
@pytest.mark.parametrize("taken", ["runs", "runs/s", "runs/s/eta=200"])
def test_a_place_that_cannot_be_written_is_noticed_before_the_first_run(taken: str) -> None:
    """A file where a directory is needed; or a directory where the choice would be written."""
    Path(taken).parent.mkdir(parents=True, exist_ok=True)
    Path(taken).write_text("")
    with pytest.raises(ConfigError, match="--output: "):
        sweep("loss.eta=100,200")
    Path(taken).unlink()
    Path("runs/s/best.json").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"--output: runs/s/best\.json is a directory"):
        sweep("loss.eta=100,200")
    assert not Path("log").exists()


@pytest.mark.usefixtures("sandbox")
def test_an_oracle_that_cannot_choose_is_noticed_before_the_first_run() -> None:
    """Policy and data are as before; the oracle asks the policy, which is not there when the runs have ended."""
    with pytest.raises(ConfigError, match="oracle"):
        sweep("loss.eta=100,200", "oracle={type: self_judge}")
    assert not Path("log").exists()
