"""Capability: which tasks, what lm-eval's figures become, what has fallen, and the measurements beside a run."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from raypref.config import RunConfig
from raypref.errors import ConfigError, RunFailed
from raypref.evaluation.capability.callback import MeasureCapability
from raypref.evaluation.capability.measure import Measurement, measure
from raypref.evaluation.capability.results import Capability, Figure, fallen, read_all
from raypref.evaluation.capability.tasks import LEADERBOARD, read_tasks

FOUND = {
    "results": {
        "arc_challenge": {
            "alias": "arc",
            "sample_len": 9,
            "acc,none": 0.4,
            "acc_stderr,none": 0.01,
            "acc_norm,none": 0.5,
            "acc_norm_stderr,none": 0.02,
        },
        "mine": {"alias": "mine", "f1,none": 0.25, "f1_stderr,none": "N/A"},
    },
    "version": "0.4.13",
}


def test_tasks_are_read_with_their_examples() -> None:
    """The leaderboard's own numbers, unless another one is named; a task that it does not have says for itself."""
    assert read_tasks(["gsm8k", "arc_challenge:3", "piqa"]) == {"gsm8k": 5, "arc_challenge": 3, "piqa": None}
    assert read_tasks(["leaderboard", "ifeval"]) == {**LEADERBOARD, "ifeval": None}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["gsm8k:few"], "'few' is no number of examples; write gsm8k:5"),
        (["leaderboard", "gsm8k"], "gsm8k is named twice"),
        ([], "name at least one task"),
        (["gsm8k", ""], "name at least one task"),
    ],
)
def test_tasks_that_cannot_be_are_refused(names: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_tasks(names)


def test_the_leaderboards_figure_is_the_main_one(tmp_path: Path) -> None:
    """acc_norm of ARC; of an unknown task the first figure that is no error. The file gives back what was written."""
    result = Capability.of("iteration_0002", "m", FOUND, {"arc_challenge": 25, "mine": None}, limit=None)
    arc, mine = result.tasks["arc_challenge"], result.tasks["mine"]
    assert (arc.metric, arc.value, arc.error, arc.examples) == ("acc_norm,none", 0.5, 0.02, 25)
    assert (mine.metric, mine.value, math.isnan(mine.error)) == ("f1,none", 0.25, True)
    read = Capability.read(result.write(tmp_path))
    assert (read.tasks["arc_challenge"], read.policy, read.version) == (arc, "iteration_0002", "0.4.13")


def capability(policy: str, limit: int | None = None, **values: tuple[float, float]) -> Capability:
    tasks = {task: Figure("acc,none", value, error, 5, {}) for task, (value, error) in values.items()}
    return Capability(policy, "m", tasks, limit, "0.4.13")


def test_what_has_fallen_by_more_than_two_standard_errors(tmp_path: Path) -> None:
    """The error of the difference of 0.03 and 0.04 is 0.05: 0.11 lower has fallen, 0.09 lower has not; without errors any loss counts."""
    before = capability("base", a=(0.6, 0.03), b=(0.6, 0.03), c=(0.5, math.nan), d=(0.5, 0.1))
    now = capability("iteration_0010", a=(0.49, 0.04), b=(0.51, 0.04), c=(0.499, math.nan), e=(0.1, 0.0))
    assert fallen(before, now) == {"a": (0.6, 0.49), "c": (0.5, 0.499)}
    assert fallen(before, capability("iteration_0010", limit=7, a=(0.1, 0.0))) == {}
    for one in (now, before, capability("iteration_0009")):
        one.write(tmp_path)
    assert [one.policy for one in read_all(tmp_path)] == ["base", "iteration_0009", "iteration_0010"]


def run_config(directory: Path, **sections: Any) -> RunConfig:
    return RunConfig.parse({"policy": {"path": "p"}, "loss": {"type": "sppo"}, "output_dir": str(directory), **sections})


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """In place of lm-eval a process that finds 0.5 for every task, and fails for a model whose name has "broken" in it."""
    models: list[str] = []
    code = (
        "import json, sys; model, output, tasks = json.loads(sys.argv[1]); print('loading', model); 'broken' in model and sys.exit(7); "
        "open(output, 'w').write(json.dumps({'results': {t: {'acc,none': 0.5} for t in tasks}, 'version': '0'}))"
    )

    def start(self: Measurement, model: str, output: Path) -> subprocess.Popen[bytes]:
        models.append(model)
        output.parent.mkdir(parents=True, exist_ok=True)
        with output.with_suffix(".log").open("wb") as log:
            return subprocess.Popen([sys.executable, "-c", code, json.dumps([model, str(output), list(self.tasks)])], stdout=log)

    monkeypatch.setattr(Measurement, "start", start)
    return models


def test_a_failed_measurement_shows_the_end_of_its_output(tmp_path: Path, stand_in: list[str]) -> None:
    measurement = Measurement.of(run_config(tmp_path), {"mine": None})
    with pytest.raises(RunFailed, match=r"lm-eval ended with status 7; .*\nloading broken"):
        measure(measurement, "base", "broken", tmp_path)
    assert measure(measurement, "base", "whole", tmp_path).tasks["mine"].value == 0.5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base.json", "base.log"]


def test_the_policies_of_a_run_are_measured_one_after_another(tmp_path: Path, stand_in: list[str]) -> None:
    """The base policy first. The run waits at its end alone; a policy that cannot be measured stops nothing; nothing is measured twice."""
    callback = MeasureCapability(run_config(tmp_path), ["mine"])
    policies = tmp_path / "policies"
    (policies / "iteration_0001").mkdir(parents=True)
    callback.on_iteration(1)
    (policies / "iteration_0002-broken").mkdir()
    (policies / "iteration_0003").mkdir()
    callback.on_iteration(2)
    callback.on_end()
    assert [Path(model).name for model in stand_in] == ["p", "iteration_0001", "iteration_0003"]
    assert [one.policy for one in read_all(tmp_path / "capability")] == ["base", "iteration_0001", "iteration_0003"]
    again = MeasureCapability(run_config(tmp_path), ["mine"])
    again.on_end()
    assert len(stand_in) == 3


def test_a_run_that_keeps_no_policies_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"checkpoint\.policies: 0 keeps no policy"):
        MeasureCapability(run_config(tmp_path, checkpoint={"policies": 0}), ["mine"])
