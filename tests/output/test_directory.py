"""The output directory of a new run, and of one that goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from raypref.config import RunConfig
from raypref.errors import ConfigError
from raypref.output import directory as output
from raypref.output.checkpoint import Checkpoints, RunState


def config_for(directory: Path, **sections: Any) -> RunConfig:
    return RunConfig.parse({"output_dir": str(directory), "policy": {"path": "p"}, "loss": {"type": "sppo", "eta": 5}} | sections)


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """A run of 2 steps an iteration that was stopped in its third, after step 5."""
    output.begin(config_for(tmp_path))
    lines = [json.dumps({"step": step, "loss": 1.0}) + "\n" for step in range(1, 6)]
    (tmp_path / "metrics.jsonl").write_text("".join(lines) + '{"step": 6, "cut o')
    rollouts = tmp_path / "rollouts"
    (rollouts / ".open").mkdir(parents=True)
    (rollouts / ".open" / "oracle-0.arrows").touch()
    for iteration in range(1, 4):
        (rollouts / f"iteration_{iteration:04d}-oracle-0-00.parquet").touch()
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2)
    checkpoints.begin(RunState(2, 4, 16))
    checkpoints.commit(RunState(2, 4, 16), evaluations=[])
    return tmp_path


def test_what_came_after_the_checkpoint_is_removed(stopped: Path) -> None:
    """The checkpoint stands after iteration 2 and step 4: step 5, the cut-off line and iteration 3 go."""
    assert output.resume(config_for(stopped)).name == "iteration_0002"
    assert [json.loads(line)["step"] for line in (stopped / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3, 4]
    left = sorted(path.name for path in (stopped / "rollouts").iterdir())
    assert left == ["iteration_0001-oracle-0-00.parquet", "iteration_0002-oracle-0-00.parquet"]


def test_where_it_runs_may_change(stopped: Path) -> None:
    output.resume(config_for(stopped, placement={"rollout": {"engines": 2}}, loop={"overlap": False}))


def test_what_memory_it_takes_may_change(stopped: Path) -> None:
    """A run that ran out of memory goes on with smaller micro-batches and a smaller share for the engine."""
    less = {"learner": {"micro_batch_tokens": 512}, "rollout": {"gpu_memory_utilization": 0.5, "max_num_seqs": 8, "kv_cache_gib": 1.0}}
    policy = {"path": "p", "gradient_checkpointing": True}
    output.resume(config_for(stopped, **less, policy=policy))


@pytest.mark.parametrize(
    ("sections", "named"),
    [
        ({"seed": 1}, "seed"),
        ({"loss": {"type": "sppo", "eta": 6}}, r"loss\.eta"),
        ({"policy": {"path": "q"}, "loop": {"iterations": 4}}, r"loop\.iterations, policy\.path"),
    ],
)
def test_what_it_computes_may_not(stopped: Path, sections: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=f"--resume: {named} differ from the run in"):
        output.resume(config_for(stopped, **sections))
    assert len((stopped / "metrics.jsonl").read_text().splitlines()) == 6


def test_another_run_is_left_alone(stopped: Path) -> None:
    with pytest.raises(ConfigError, match="holds another run; continue it with --resume, or choose"):
        output.begin(config_for(stopped))


def test_a_run_without_a_checkpoint_is_not_told_to_resume(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(ConfigError, match="holds another run; choose or empty"):
        output.begin(config_for(tmp_path))
