"""A verdict says what it could not be made from: each file that is missing, empty, cut off or damaged, though the run wrote it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from raypref.output.capability import Capability, Figure
from raypref.report.completeness import gaps
from raypref.report.model_card import model_card
from raypref.report.overview import overview
from raypref.report.page import header
from raypref.report.run_directory import RunDirectory
from raypref.report.verdict import verdict
from tests.report.runs import lines, made_run

NEWEST = "evaluation/iteration_0003_against_base.jsonl"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with capability measured, which no test changes."""
    directory = tmp_path_factory.mktemp("made") / "run"
    made_run(directory, oracle="longer")
    for name in ("base", "policy"):
        Capability(name, "m", {"piqa": Figure("acc,none", 0.5, 0.01, 0, {})}, None, "0").write(directory / "capability")
    return directory


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(made, tmp_path / "run"))


def emptied(path: Path) -> None:
    path.write_text("")


def cut_off(path: Path) -> None:
    """As a crash leaves it: the second half of the file is gone, and half of a line with it."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def cut_at_a_line(path: Path) -> None:
    whole = path.read_text().splitlines(keepends=True)
    path.write_text("".join(whole[: len(whole) // 2]))


def a_line_is_damaged(path: Path) -> None:
    whole = path.read_text().splitlines(keepends=True)
    whole[len(whole) // 2] = whole[len(whole) // 2][:9] + "\n"
    path.write_text("".join(whole))


def last_line_is_torn(path: Path) -> None:
    path.write_text(path.read_text()[:-9])


def a_value_is_torn(path: Path) -> None:
    path.write_text(path.read_text().rstrip()[:-2])


def binary(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\x00")


LINES: list[Callable[[Path], None]] = [Path.unlink, emptied, cut_off, cut_at_a_line, a_line_is_damaged, last_line_is_torn, binary]
WHOLE: list[Callable[[Path], None]] = [emptied, cut_off, binary]
DAMAGES = [
    *(("metrics.jsonl", damage, "Health") for damage in LINES),
    *((NEWEST, damage, "The win rate after iteration 3 cannot be judged") for damage in LINES),
    *(("summary.json", damage, "Whether the run has finished is not known") for damage in WHOLE),
    *(("capability/policy.json", damage, "Capability cannot be judged") for damage in WHOLE),
    ("capability/base.json", Path.unlink, "Capability cannot be judged"),
    ("config.yaml", a_value_is_torn, "The settings"),
]


def test_a_whole_run_has_no_gap(made: Path) -> None:
    assert gaps(RunDirectory(made)) == ()


def test_a_run_that_has_only_begun_has_no_gap(run: Path) -> None:
    """No file is missing that a run writes later."""
    for path in list(run.iterdir()):
        if path.name != "config.yaml":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert gaps(RunDirectory(run)) == ()
    assert verdict(RunDirectory(run)).headline == "No optimiser step was taken yet."


@pytest.mark.parametrize(("name", "damage", "said"), DAMAGES, ids=lambda value: getattr(value, "__name__", str(value).split("/")[-1]))
def test_the_verdict_names_what_it_could_not_be_made_from(run: Path, name: str, damage: Callable[[Path], None], said: str) -> None:
    damage(run / name)
    found = verdict(RunDirectory(run))
    assert found.level in ("warning", "critical")
    sentence = found.headline[found.headline.index(said) :]
    assert name in sentence
    assert any(name in line for line in overview(RunDirectory(run)))


def test_without_metrics_nobody_hears_only_that_the_policy_is_better(run: Path) -> None:
    """The steps and iterations of the finished run are those of summary.json, in the header and on the model card."""
    summary = json.loads((run / "summary.json").read_text())
    (run / "metrics.jsonl").unlink()
    found = RunDirectory(run)
    told = verdict(found)
    assert told.level == "warning"
    assert told.headline.startswith("Better than the base policy: ")
    assert "Health cannot be judged: metrics.jsonl is missing." in told.headline
    assert dict(header(found))["State"] == f"finished, 3 of 3 iterations, {summary['steps']} steps"
    card = model_card(found)
    assert f"after iteration 3 of 3 ({summary['steps']} optimiser steps)" in card
    assert "- Health cannot be judged: metrics.jsonl is missing." in card


def test_how_much_of_the_metrics_is_missing(run: Path) -> None:
    """The summary says how many steps there were; the lines of the last five are gone."""
    steps = json.loads((run / "summary.json").read_text())["steps"]
    kept = [row for row in lines(run) if row["step"] <= steps - 5]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    (gap,) = gaps(RunDirectory(run))
    assert gap.startswith(f"Health was judged from a part of the run: metrics.jsonl lacks 5 of {steps} steps")


def test_evaluations_that_are_all_gone_are_not_evaluations_that_never_were(run: Path) -> None:
    for path in (run / "evaluation").glob("*_against_*"):
        path.unlink()
    found = RunDirectory(run)
    assert NEWEST in verdict(found).headline
    assert "there is no evaluation yet" not in verdict(found).headline
    assert "was not evaluated" not in model_card(found)


def test_a_run_that_was_killed_lacks_evaluations_that_its_metrics_report(run: Path) -> None:
    (run / "summary.json").unlink()
    for path in (run / "evaluation").glob("iteration_0003_against_*"):
        path.unlink()
    (gap,) = gaps(RunDirectory(run))
    assert "evaluation/ has 2 of the 3 evaluations against the base policy that metrics.jsonl reports" in gap


def test_the_last_line_of_a_run_that_was_killed_may_be_torn(run: Path) -> None:
    """What comes before it is all there, and the win rate with it."""
    (run / "summary.json").unlink()
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 99, "lo')
    assert gaps(RunDirectory(run)) == ()


@pytest.mark.parametrize("content", ["", '{"state": {', "[]", '{"held_out": 3}'])
def test_the_held_out_loss_of_a_damaged_checkpoint(run: Path, content: str) -> None:
    """Of a run that has not finished, the newest checkpoint has it."""
    (run / "summary.json").unlink()
    state = run / "checkpoints" / "iteration_0003" / "state.json"
    state.parent.mkdir(parents=True, exist_ok=True)
    state.write_text(content)
    (gap,) = gaps(RunDirectory(run))
    assert gap.startswith("The loss on held-out examples cannot be judged: checkpoints/iteration_0003/state.json cannot be read (")
    assert gap in verdict(RunDirectory(run)).headline


def test_a_finished_run_whose_summary_is_gone(run: Path) -> None:
    (run / "summary.json").unlink()
    assert any("3 of 3 iterations" in fact and "summary.json is missing" in fact for fact in verdict(RunDirectory(run)).facts)


def test_sections_that_the_config_lacks_are_named(run: Path) -> None:
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text[: text.index("supervision:")])
    found = RunDirectory(run)
    assert found.config is not None
    assert any("config.yaml lacks supervision" in problem for problem in found.problems)
