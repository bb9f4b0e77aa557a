"""Capability: which tasks, what lm-eval's figures become, what has fallen, and the measurements beside a run."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from raypref.cli.app import app
from raypref.config import RunConfig
from raypref.errors import ConfigError, RunFailed
from raypref.evaluation.capability.callback import MeasureCapability
from raypref.evaluation.capability.job import refuse_unknown
from raypref.evaluation.capability.measure import Measurement, measure
from raypref.evaluation.capability.tasks import LEADERBOARD, main_figure, read_tasks
from raypref.output import directory as output
from raypref.output.capability import Capability, Figure, compared, fallen, read_all, remarks, table
from raypref.output.outcome import Outcome
from raypref.output.summary import RunResult

FOUND: dict[str, Any] = {
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
    arc, mine = (main_figure(task, FOUND["results"][task], examples) for task, examples in (("arc_challenge", 25), ("mine", None)))
    result = Capability("iteration_0002", "m", {"arc_challenge": arc, "mine": mine}, None, "0.4.13")
    assert (arc.metric, arc.value, arc.error, arc.examples) == ("acc_norm,none", 0.5, 0.02, 25)
    assert (mine.metric, mine.value, math.isnan(mine.error)) == ("f1,none", 0.25, True)
    read = Capability.read(result.write(tmp_path))
    assert (read.tasks["arc_challenge"], read.policy, read.version) == (arc, "iteration_0002", "0.4.13")
    assert math.isnan(read.tasks["mine"].error)


def capability(policy: str, limit: int | None = None, **values: tuple[float, float]) -> Capability:
    tasks = {task: Figure("acc,none", value, error, 5, {}) for task, (value, error) in values.items()}
    return Capability(policy, "m", tasks, limit, "0.4.13")


def test_what_has_fallen_by_more_than_two_standard_errors(tmp_path: Path) -> None:
    """The error of the difference of 0.03 and 0.04 is 0.05: 0.11 lower has fallen, 0.09 lower has not; without errors any loss counts."""
    before = capability("base", a=(0.6, 0.03), b=(0.6, 0.03), c=(0.5, math.nan), d=(0.5, 0.1))
    now = capability("iteration_0010", a=(0.49, 0.04), b=(0.51, 0.04), c=(0.499, math.nan), e=(0.1, 0.0))
    assert fallen(before, now) == {"a": (0.6, 0.49), "c": (0.5, 0.499)}
    other = capability("iteration_0010", limit=7, a=(0.1, 0.0))
    assert fallen(before, other) == compared(before, other) == {}
    for one in (now, before, capability("iteration_0009")):
        one.write(tmp_path)
    assert [one.policy for one in read_all(tmp_path)] == ["base", "iteration_0009", "iteration_0010"]


def test_a_perplexity_that_rises_has_fallen(tmp_path: Path) -> None:
    """lm-eval says which way is better. 10 to 12 is a loss beyond two errors of 0.5, 12 to 10 is none; read from a file, too. A metric of
    which it says nothing, or that a group's tasks do not agree on, counts as higher."""
    found = {"alias": "w", "perplexity,none": 10.0, "perplexity_stderr,none": 0.5, "acc,none": 0.5}
    first = main_figure("w", found, None, {"perplexity": False, "acc": True})
    second = main_figure("w", found | {"perplexity,none": 12.0}, None, {"perplexity": False, "acc": True})
    assert (first.metric, first.lower_is_better) == ("perplexity,none", True)
    assert not main_figure("w", found, None, {"perplexity": None}).lower_is_better
    low, high = (Capability(name, "m", {"w": figure}, None, "0") for name, figure in (("base", first), ("iteration_0001", second)))
    low, high = (Capability.read(one.write(tmp_path)) for one in (low, high))
    assert fallen(low, high) == {"w": (10.0, 12.0)}
    assert fallen(high, low) == {}
    assert remarks([low, high], {}) == {"iteration_0001": "Capability of iteration_0001 has fallen: w 10.000 to 12.000 (lower is better)."}
    assert list(table([low, high], {}).columns[0].cells) == ["w (lower is better)"]


def test_tasks_without_a_figure_are_refused_before_the_policy_is_loaded() -> None:
    """A tag has none in lm-eval's results; a group may have none, which shows in what it found."""
    refuse_unknown(["piqa", "mmlu"], ["piqa", "mmlu", "ai2_arc"], ["ai2_arc"])
    with pytest.raises(SystemExit, match="--tasks piqqa: lm-eval has no such task"):
        refuse_unknown(["piqa", "piqqa"], ["piqa"], [])
    with pytest.raises(SystemExit, match="--tasks ai2_arc: a tag of lm-eval, which has no figure as a whole; name its tasks"):
        refuse_unknown(["ai2_arc"], ["ai2_arc"], ["ai2_arc"])
    with pytest.raises(RunFailed, match="no figure of mine as a whole; name the tasks"):
        main_figure("mine", {"alias": "mine", "acc_stderr,none": "N/A"}, None)


RISEN = {"win_rate": 0.625, "low": 0.51, "high": 0.75}


def test_a_win_rate_that_rises_while_capability_falls() -> None:
    """Base 0.6 with error 0.03. Iteration 1 has 0.49 (error 0.04: 0.11 lower, more than 0.1) and a whole interval above one half;
    iteration 2 the same figure, but an interval that begins at one half; iteration 3 was not evaluated; 4 lost 0.09, which is not clear."""
    lost, kept = {"a": (0.49, 0.04)}, {"a": (0.51, 0.04)}
    figures = [("base", {"a": (0.6, 0.03)}), *((f"iteration_000{number}", kept if number == 4 else lost) for number in range(1, 5))]
    measured = [capability(name, **values) for name, values in figures]
    rates = {"iteration_0001": RISEN, "iteration_0002": RISEN | {"low": 0.5}, "iteration_0004": RISEN}
    assert remarks(measured, rates) == {
        "iteration_0001": "Capability of iteration_0001 has fallen: a 0.600 to 0.490, while its win rate against base has risen to "
        "0.625  [0.510, 0.750].",
        "iteration_0002": "Capability of iteration_0002 has fallen: a 0.600 to 0.490.",
        "iteration_0003": "Capability of iteration_0003 has fallen: a 0.600 to 0.490.",
    }
    assert remarks(measured[1:], rates) == remarks([], rates) == {}, "nothing is known of the base policy"


def test_win_rates_and_figures_stand_in_one_table() -> None:
    shown = table([capability("base", a=(0.6, 0.03)), capability("iteration_0001", a=(0.5, math.nan))], {"iteration_0001": RISEN})
    assert [list(column.cells) for column in shown.columns] == [
        ["win rate against base [its interval]", "a"],
        ["", "0.600 [0.030]"],
        ["0.625  [0.510, 0.750]", "0.500"],
    ]
    assert [list(column.cells) for column in table([capability("base", a=(0.6, 0.03))], {}).columns] == [["a"], ["0.600 [0.030]"]]


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


def test_what_is_measured_at_the_end_of_a_run_is_in_its_summary(tmp_path: Path, stand_in: list[str]) -> None:
    """The summary is written before the last policies are measured; the result that ``run`` returns is read after."""
    config = run_config(tmp_path)
    callback = MeasureCapability(config, ["mine"])
    (tmp_path / "policies" / "iteration_0001").mkdir(parents=True)
    result = RunResult.written(config, Outcome(evaluations=[{"iteration": 1, "base": RISEN}]), run_s=1.0)
    assert result.summary["capability"] == {"measured": [], "remarks": []}
    callback.on_end()
    measured = result.read_again().summary["capability"]["measured"]
    assert [(one["policy"], one["tasks"]["mine"]["value"], one["tasks"]["mine"]["error"]) for one in measured] == [
        ("base", 0.5, None),
        ("iteration_0001", 0.5, None),
    ]


def test_a_finished_run_does_not_fail_for_a_damaged_figure(tmp_path: Path) -> None:
    """Its summary says so, as its report does."""
    capability("base", mine=(0.5, 0.1)).write(tmp_path / "capability").write_text('{"policy": "ba')
    (remark,) = RunResult.written(run_config(tmp_path), Outcome(), run_s=1.0).summary["capability"]["remarks"]
    assert remark.startswith("Capability cannot be judged: capability/base.json cannot be read (")


def test_the_command_names_the_policy_and_completes_the_summary(tmp_path: Path, stand_in: list[str]) -> None:
    """``runs/x`` of a finished run of two iterations is the policy of the second, which won on all of three prompts."""
    run = tmp_path / "x"
    config = run_config(run, loop={"iterations": 2})
    output.begin(config)
    (run / "policy").mkdir()
    (run / "evaluation").mkdir()
    row = {"iteration": 2, "opponent": "base", "win_rate": 1.0}
    (run / "evaluation" / "iteration_0002_against_base.jsonl").write_text(3 * f"{json.dumps(row)}\n")
    won = {"win_rate": 1.0, "low": 1.0, "high": 1.0}
    RunResult.written(config, Outcome(evaluations=[{"iteration": 2, "base": won}]), run_s=1.0)
    capability("base", mine=(0.75, math.nan)).write(run / "capability")
    result = CliRunner().invoke(app, ["capability", str(run), "--tasks", "mine:5"], catch_exceptions=False)
    sentence = "Capability of iteration_0002 has fallen: mine 0.750 to 0.500, while its win rate against base has risen to 1.000"
    assert sentence in result.output
    assert sentence in json.loads((run / "summary.json").read_text())["capability"]["remarks"][0]


def test_a_run_that_keeps_no_policies_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"checkpoint\.policies: 0 keeps no policy"):
        MeasureCapability(run_config(tmp_path, checkpoint={"policies": 0}), ["mine"])


def test_what_cannot_be_written_or_read_is_noticed_before_the_policy_is_measured(tmp_path: Path, stand_in: list[str]) -> None:
    """A directory in the place of the figures; then damaged figures of another policy, with which these would be compared."""
    (tmp_path / "run.yaml").write_text("policy: {path: p}\nloss: {type: sft}\ndata: {path: d, type: demonstrations}\n")
    words = ["capability", str(tmp_path / "run.yaml"), "--tasks", "mine", "--output", str(tmp_path / "out")]
    (tmp_path / "out" / "policy.json").mkdir(parents=True)
    assert "policy.json is a directory" in str(CliRunner().invoke(app, words).exception)
    (tmp_path / "out" / "policy.json").rmdir()
    (tmp_path / "out" / "base.json").write_text('{"policy": ')
    refused = CliRunner().invoke(app, words).exception
    assert isinstance(refused, ConfigError)
    assert f"{tmp_path / 'out' / 'base.json'} cannot be read" in str(refused)
    assert stand_in == []


def test_a_torn_summary_is_noticed_before_the_policy_is_measured(tmp_path: Path, stand_in: list[str]) -> None:
    """Beside a run, where nothing else can be done, it is logged, and the figures stay."""
    config = run_config(tmp_path / "x")
    output.begin(config)
    (tmp_path / "x" / "policies" / "iteration_0001").mkdir(parents=True)
    (tmp_path / "x" / "summary.json").write_text('{"name": "x", "eval')
    refused = CliRunner().invoke(app, ["capability", str(tmp_path / "x"), "--tasks", "mine"]).exception
    assert isinstance(refused, ConfigError)
    assert "summary.json cannot be read (" in str(refused)
    assert stand_in == []
    MeasureCapability(config, ["mine"]).on_end()
    assert [one.policy for one in read_all(tmp_path / "x" / "capability")] == ["base", "iteration_0001"]


def test_another_policy_is_not_measured_under_the_name_of_a_run_s(tmp_path: Path, stand_in: list[str]) -> None:
    run = tmp_path / "x"
    output.begin(run_config(run))
    (run / "policies" / "iteration_0001").mkdir(parents=True)
    words = ["capability", str(run), f"policy.path={tmp_path / 'other'}", "--tasks", "mine"]
    assert "is not the policy of" in str(CliRunner().invoke(app, words).exception)
    assert stand_in == []
