"""Running averages, and the clock of stages."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from raypref.metrics import clock as metrics
from raypref.metrics.clock import StageClock
from raypref.metrics.throughput import Speed, Throughput
from raypref.metrics.writer import Averages, MetricsWriter, RunMeter
from raypref.sections import PlacementConfig
from raypref.types import Total


def test_stage_counts_the_time_in_which_any_call_is_in_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock is read when the first call begins (1) and when the last ends (2): one second, whatever lies between; then 3 to 4, in
    which a call fails: two in all. Another stage's call takes 5 to 6."""
    ticks = itertools.count(1)
    monkeypatch.setattr(metrics.time, "monotonic", lambda: float(next(ticks)))
    clock = StageClock()
    with clock.stage("rollout"), clock.stage("rollout"):
        pass
    with pytest.raises(ValueError, match="failed"), clock.stage("rollout"):
        raise ValueError("failed")
    with clock.stage("judge"):
        pass
    assert clock.seconds() == {"rollout": 2.0, "judge": 1.0}


def test_stage_seconds_are_taken_for_each_iteration_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock is read when made (1), for rollout (2 to 3), when taken (4: three seconds after 1), for rollout (5 to 6), for train
    (7 to 8), when taken (9: five seconds after 4)."""
    ticks = itertools.count(1)
    monkeypatch.setattr(metrics.time, "monotonic", lambda: float(next(ticks)))
    clock = StageClock()
    with clock.stage("rollout"):
        pass
    assert clock.take() == {"time/iteration_s": 3.0, "time/rollout_s": 1.0}
    with clock.stage("rollout"):
        pass
    with clock.stage("train"):
        pass
    assert clock.take() == {"time/iteration_s": 5.0, "time/rollout_s": 1.0, "time/train_s": 1.0}
    assert clock.seconds() == {"rollout": 2.0, "train": 1.0}


def test_what_came_after_the_checkpoint_leaves_tensorboard_too(tmp_path: Path) -> None:
    """Steps 1 to 4, stopped; gone on with after step 2: the old steps 3 and 4 (loss 1) are replaced by the new 3 (loss 2)."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for after, steps in ((None, (1, 2, 3, 4)), (2, (3,))):
        writer = MetricsWriter(tmp_path, after)
        for step in steps:
            writer.write(step, {"loss": 1.0 if after is None else 2.0})
        writer.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 1.0), (2, 1.0), (3, 2.0)]


def test_averages_leave_out_what_does_not_apply() -> None:
    """a: (1 + 2) / 2; b: 4 alone, for the other is NaN; nothing is left afterwards."""
    averages = Averages()
    averages.add({"a": 1.0, "b": float("nan")})
    averages.add({"a": 2.0, "b": 4.0})
    assert averages.take() == {"a": 1.5, "b": 4.0}
    assert averages.take() == {}


def test_totals_are_summed_since_the_start_whatever_they_are_called() -> None:
    """Requests: 2, then 2 + 3. ``a_total`` is a plain number, so it is averaged: (4 + 6) / 2."""
    averages = Averages()
    averages.add({"requests": Total(2), "a_total": 4.0})
    averages.add({"a_total": 6.0})
    assert averages.take() == {"requests": 2.0, "a_total": 5.0}
    averages.add({"requests": Total(3)})
    assert averages.take() == {"requests": 5.0}


def test_tensorboard_shows_what_a_metric_means(tmp_path: Path) -> None:
    """The first value of a name carries the description; the others are plain."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    writer = MetricsWriter(tmp_path)
    for step in (1, 2):
        writer.write(step, {"rollout/truncated": 0.25 * step})
    writer.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("rollout/truncated")] == [(1, 0.25), (2, 0.5)]
    description = events.SummaryMetadata("rollout/truncated").summary_description
    assert description.startswith("Share of responses that were cut off at rollout.max_tokens.")
    assert "Healthy: 0 to 0.3." in description


def test_throughput_of_each_iteration_by_itself() -> None:
    """2 engines of 2 GPUs: (300 + 500) tokens / (2 s x 4) = 100; 3 ranks: 600 / (1 s x 3) = 200. Then nothing is sampled."""
    placement = PlacementConfig.parse({"rollout": {"engines": 2, "tensor_parallel": 2}, "learner": {"ranks": 3}})
    throughput = Throughput(placement)
    for tokens in (300.0, 500.0):
        throughput.add_sampled({"rollout/tokens": tokens})
    throughput.add_trained({"tokens": 600.0})
    assert throughput.take({"time/rollout_s": 2.0, "time/train_s": 1.0}) == {
        "time/rollout_s": 2.0,
        "time/train_s": 1.0,
        "tokens_per_second_per_gpu/sampled": 100.0,
        "tokens_per_second_per_gpu/trained": 200.0,
    }
    throughput.add_trained({"tokens": 600.0})
    assert throughput.take({"time/rollout_s": 0.0, "time/train_s": 2.0}) == {
        "time/rollout_s": 0.0,
        "time/train_s": 2.0,
        "tokens_per_second_per_gpu/trained": 100.0,
    }


def test_the_share_of_time_that_each_role_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """10 s: the engines sample from 1 to 4 and answer an evaluation from 3 to 5: they work for 4 s, though their stages for 3 + 2. The
    oracle judges from 4 to 5, in the evaluation from 3 on: 2 s. The learner trains from 2 to 8: the busiest, 6 s of 10."""
    now = {"s": 0.0}
    monkeypatch.setattr(metrics.time, "monotonic", lambda: now["s"])
    clock = StageClock()
    events = [(1, "rollout", True), (2, "train", True), (3, "evaluate", True), (4, "rollout", False), (4, "judge", True)]
    events += [(5, "judge", False), (5, "evaluate", False), (8, "train", False)]
    for at, name, begins in events:
        now["s"] = float(at)
        stage = clock.stage(name)
        stage.__enter__() if begins else stage.__exit__()
        if at == 4 and name == "judge":
            assert clock.in_flight() == {"in_flight/rollout": 0.0, "in_flight/judge": 1.0}
    now["s"] = 10.0
    assert clock.take()["time/iteration_s"] == 10.0
    waiting = {"waiting/rollout": 0.6, "waiting/oracle": 0.8, "waiting/learner": 0.4, "overlap_efficiency": 0.6}
    assert clock.waiting() == pytest.approx(waiting)
    now["s"] = 12.0
    clock.take()
    assert clock.waiting() == {}, "no role did anything"


def test_mfu_is_the_share_of_the_peak() -> None:
    """2 ranks, 4 s: 8000 tokens of 10 operations are 10000 a second and rank, of a peak of 40000."""
    throughput = Throughput(PlacementConfig.parse({"learner": {"ranks": 2}}))
    throughput.add_trained({"tokens": 6000.0, "sequence_tokens": 8000.0})
    assert throughput.take({"time/train_s": 4.0}, Speed(10.0, 40000.0))["mfu"] == 0.25
    throughput.add_trained({"tokens": 6000.0, "sequence_tokens": 8000.0})
    assert "mfu" not in throughput.take({"time/train_s": 4.0}), "without a known peak it is not made up"


def test_the_age_of_the_policy_is_counted_in_steps(tmp_path: Path) -> None:
    """Sampled after step 4: step 5 is taken on-policy, step 7 two steps later. The actors' own figures come with each step."""
    with MetricsWriter(tmp_path) as writer:
        meter = RunMeter(writer, PlacementConfig())
        meter.sources.append(lambda: {"engine/running": 3.0})
        meter.step(5, {"loss": 1.0}, 4)
        meter.step(7, {"loss": 1.0}, 4)
        meter.step(8, {"loss": 1.0})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line.get("policy_age") for line in lines] == [0.0, 2.0, None]
    assert [line["engine/running"] for line in lines] == [3.0, 3.0, 3.0]
