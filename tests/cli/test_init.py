"""``raypref init``: what it writes passes the check at once, for every method; it is commented, and replaces nothing."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from raypref.cli.app import app
from raypref.cli.check import problems_of
from raypref.errors import ConfigError
from raypref.losses.base import losses
from raypref.settings.starter import kinds_of
from tests.tiny_models import make_model

MODULES = ("my_oracle", "my_loss", "my_selection")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"), tied=True)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory to be made, whose modules are found as the command finds them; those of other tests are forgotten, before and after."""
    for name in MODULES:
        sys.modules.pop(name, None)
    monkeypatch.syspath_prepend(tmp_path / "mine")
    yield tmp_path / "mine"
    for name in MODULES:
        sys.modules.pop(name, None)


def init(place: Path, *options: str) -> Result:
    return CliRunner().invoke(app, ["init", str(place), *options])


@pytest.mark.parametrize(("method", "kind"), [(method, kind) for method in losses.names() for kind in kinds_of(method)])
def test_every_method_passes_the_check_at_once(method: str, kind: str, place: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = init(place, "--method", method, "--data", kind, "--policy", str(model), "--device", "cpu")
    assert done.exit_code == 0, done.output
    monkeypatch.chdir(place)
    assert [str(problem) for problem in problems_of(Path("run.yaml"), [])] == []
    config = yaml.safe_load((place / "run.yaml").read_text())
    assert (config["loss"], config["data"]["type"]) == ({"type": method}, kind)
    assert (place / "my_oracle.py").exists() == (kind != "demonstrations")


def test_every_key_that_is_set_has_a_comment_and_the_loss_shows_its_others(place: Path, model: Path) -> None:
    init(place, "--method", "inpo", "--policy", str(model), "--device", "cpu")
    lines = (place / "run.yaml").read_text().splitlines()
    undocumented = {"type", "function", "mode"}  # of the oracle: its own comment stands above its type
    for above, line in itertools.pairwise(lines):
        key = line.strip().partition(":")[0]
        if ": " in line and not line.strip().startswith("#") and key not in undocumented:
            assert above.strip().startswith("#"), line
    assert "  # eta: 0.005" in lines
    assert max(map(len, lines)) <= 120


@pytest.mark.parametrize("gpu", [True, False])
def test_a_gpu_is_shared_by_all_roles(gpu: bool, place: Path, model: Path) -> None:
    init(place, "--policy", str(model), "--device", "cuda" if gpu else "cpu")
    config = yaml.safe_load((place / "run.yaml").read_text())
    assert config["policy"]["dtype"] == ("bfloat16" if gpu else "float32")
    assert config["placement"].get("sleep", False) == gpu
    assert config["placement"]["device"] == ("cuda" if gpu else "cpu")


def test_stubs_of_a_loss_and_a_selection_are_used(place: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stub's loss is DPO's: of equal log-ratios it is log 2."""
    import math

    import torch

    from raypref.losses.base import LossBatch

    done = init(place, "--own-loss", "--own-selection", "--policy", str(model), "--device", "cpu")
    assert done.exit_code == 0, done.output
    monkeypatch.chdir(place)
    assert problems_of(Path("run.yaml"), []) == []
    loss = losses.build({"type": "my_loss:MyLoss"})
    zeros, ones = torch.zeros(1, 2), torch.ones(1, 2)
    value = loss(LossBatch(zeros, zeros, None, zeros, ones, ones.bool()))
    assert value.loss.tolist() == pytest.approx([math.log(2)])


def test_nothing_is_replaced(place: Path, model: Path) -> None:
    place.mkdir()
    (place / "run.yaml").write_text("mine")
    done = init(place, "--policy", str(model))
    assert isinstance(done.exception, ConfigError)
    assert [path.name for path in place.iterdir()] == ["run.yaml"]
    assert (place / "run.yaml").read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--method", "spppo"), "did you mean 'sppo'"),
        (("--method", "sft", "--data", "prompts"), "sft trains on demonstrations"),
        (("--data", "preferences", "--own-selection"), "the pairs are given"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_written(options: tuple[str, ...], message: str, place: Path) -> None:
    done = init(place, *options)
    assert isinstance(done.exception, ConfigError)
    assert message in str(done.exception)
    assert not place.exists()


def test_the_oracle_is_a_probability_and_antisymmetric(place: Path, model: Path) -> None:
    init(place, "--policy", str(model))
    import my_oracle  # type: ignore[import-not-found]

    short, right = "one two", "word " * 15
    assert my_oracle.prefer("", right, short) > 0.99
    assert my_oracle.prefer("", short, right) == pytest.approx(1 - my_oracle.prefer("", right, short))
    assert my_oracle.prefer("", short, short) == 0.5


@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.parametrize("driver", [["-m", "raypref", "train", "run.yaml"], ["train.py"]])
def test_it_trains_on_a_cpu(driver: list[str], place: Path, model: Path) -> None:
    assert init(place, "--policy", str(model), "--device", "cpu").exit_code == 0
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run([sys.executable, *driver], cwd=place, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((place / "runs" / "mine" / "summary.json").read_text())
    assert summary["iterations"] == 2
    assert len(summary["evaluations"]) == 2


def test_the_command_that_is_printed_works_for_a_name_with_a_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    printed = CliRunner().invoke(app, ["init", "two words"]).output.splitlines()[0]
    assert subprocess.run(["sh", "-c", f"{printed} && ls run.yaml"], capture_output=True, text=True).stdout == "run.yaml\n"
