"""When which stage was at work: measured by the clock, written by the run, read by the report; and the plan beside it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from raypref.metrics.clock import StageClock
from raypref.report.operation import timing
from raypref.report.parts import Note, Plot, Table
from raypref.report.plan import plan as plan_section
from raypref.report.run_directory import RunDirectory
from raypref.report.timeline import joined, read_timeline
from tests.report.runs import made_run


def test_spans_of_overlapping_calls_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls from 1 to 3 and from 2 to 4 are one span; one that begins 0.01 s later continues it; the next one, 5 s later, is its own."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    clock = StageClock()
    stage = clock.stage("judge")
    for at, enters in ((1.0, True), (2.0, True), (3.0, False), (4.0, False), (4.01, True), (5.0, False), (10.0, True), (11.0, False)):
        now[0] = at
        stage.__enter__() if enters else stage.__exit__()
    assert clock.take_spans() == [("judge", 1.0, 5.0), ("judge", 10.0, 11.0)]
    assert clock.take_spans() == []
    assert clock.seconds() == {"judge": pytest.approx(3.0 + 0.99 + 1.0)}


def test_a_resumed_run_continues_the_time(tmp_path: Path) -> None:
    """The second attempt begins where the first one was last at work; a line that was cut off is left out."""
    rows = [{"begins": "x"}, {"spans": [["train", 1.0, 2.0]]}, {"begins": "y"}, {"spans": [["train", 0.5, 0.75], ["sync", 0.0, 0.25]]}]
    (tmp_path / "timeline.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"spans": [["tr')
    assert read_timeline(tmp_path) == {"train": [(1.0, 2.0), (2.5, 2.75)], "sync": [(2.0, 2.25)]}


def test_the_shortest_gaps_are_closed_first() -> None:
    assert joined([(0.0, 1.0), (1.5, 2.0), (2.1, 3.0), (9.0, 10.0)], 3) == [(0.0, 1.0), (1.5, 3.0), (9.0, 10.0)]


def test_a_run_writes_its_timeline_and_the_report_shows_it(tmp_path: Path) -> None:
    """The seconds of a stage add up to those of the iterations, up to what joins neighbouring spans."""
    made_run(tmp_path / "run")
    run = RunDirectory(tmp_path / "run")
    spans = read_timeline(run.path)
    assert {"rollout", "judge", "train", "sync", "evaluate"} <= spans.keys()
    measured = sum(run.series("time/judge_s").values)
    assert sum(end - begin for begin, end in spans["judge"]) >= 0.9 * measured
    plot = next(block for block in timing(run).blocks if isinstance(block, Plot))
    assert plot.title == "Which stage worked when"
    assert [trace["name"] for trace in plot.data][:2] == ["rollout (engines)", "judge (oracle)"]


def test_planned_and_measured_seconds_stand_side_by_side(tmp_path: Path) -> None:
    made_run(tmp_path / "run")
    run = RunDirectory(tmp_path / "run")
    parts = {"learner gradients": 2**30, "learner optimizer": 3 * 2**30}
    use = {"roles": ["learner"], "count": 2, "phases": {"train": parts, "rollout": {}}, "peak_phase": "train", "peak_bytes": 4 * 2**30}
    seconds = {"stages": {"judge": 12.0}, "iteration_s": 20.0}
    plan = {"fits": True, "gpu_bytes": 80 * 2**30, "gpus": [use], "seconds": seconds}
    (run.path / "plan.json").write_text(json.dumps(plan))
    tables = [block for block in plan_section(run).blocks if isinstance(block, Table)]
    assert tables[0].title == "Memory of 2 GPUs (learner): at most 4.00 GiB of 80.00 GiB, train"
    assert list(map(list, tables[0].rows)) == [["learner gradients", "1.00 GiB"], ["learner optimizer", "3.00 GiB"]]
    measured = run.series("time/judge_s").mean
    assert [row[:2] for row in tables[1].rows] == [["judge", "12.0"], ["iteration", "20.0"]]
    assert float(str(tables[1].rows[0][2])) == pytest.approx(measured, rel=0.01)


def test_a_plan_of_another_form_is_shown_as_it_is(tmp_path: Path) -> None:
    made_run(tmp_path / "run", loop={"iterations": 1}, prompts=8)
    (tmp_path / "run" / "plan.json").write_text('{"gpus": 3}')
    note, table = plan_section(RunDirectory(tmp_path / "run")).blocks
    assert isinstance(note, Note)
    assert "another form" in note.text
    assert isinstance(table, Table)
    assert list(map(list, table.rows)) == [["gpus", "3"]]
