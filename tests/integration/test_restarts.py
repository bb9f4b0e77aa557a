"""Actors that are killed in the middle of a run: it finishes, with the parameters of the run that nothing happened to."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

import raypref
from raypref import types
from raypref.metrics.progress import Callback
from tests.integration.runs import PROMPTS, RecordedRun, config_for, more_different_words

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


def process_of(output_dir: Path, actor: str) -> int:
    """The process whose standard output is the actor's log."""
    log = str(output_dir / "logs" / f"{actor}.log")
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and os.readlink(entry / "fd" / "1") == log:
                return int(entry.name)
        except OSError:
            continue
    raise AssertionError(f"no process writes to {log}")


class Kills(Callback):
    """Kills an engine after ten groups, in the second iteration, and a learner rank after its first step there."""

    def __init__(self, output_dir: Path) -> None:
        self.output_dir = output_dir
        self.done: list[str] = []
        self._groups = 0

    def on_group(self, verdict: types.Verdict) -> None:
        self._groups += 1
        if self._groups == 10:
            self._kill("rollout-0")

    def on_step(self, step: int, metrics: Mapping[str, float]) -> None:
        if step == 3 and "learner-0" not in self.done:
            self._kill("learner-0")

    def _kill(self, actor: str) -> None:
        os.kill(process_of(self.output_dir, actor), signal.SIGKILL)
        self.done.append(actor)


def test_killed_actors_cost_no_judged_group_and_change_no_parameter(sppo_run: RecordedRun, tied_model: Path, tmp_path: Path) -> None:
    asked = tmp_path / "asked.jsonl"

    def counted(prompts: list[str], responses: list[list[str]]) -> list[NDArray[np.float64]]:
        with asked.open("a") as file:
            for prompt, group in zip(prompts, responses, strict=True):
                file.write(json.dumps([prompt, group]) + "\n")
        return more_different_words(prompts, responses)

    config = config_for(tied_model, tmp_path / "run", checkpoint={"restart_after_s": 0.1})
    result = raypref.run(config, prompts=PROMPTS, oracle=counted, callbacks=[kills := Kills(config.output_dir)])
    assert kills.done == ["rollout-0", "learner-0"]
    assert [entry["after"] for entry in result.summary["restarts"]][-1].startswith("learner-0 died")

    whole, again = (load_file(run.policy_dir / "model.safetensors") for run in (sppo_run.result, result))
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert result.summary["evaluations"] == sppo_run.result.summary["evaluations"]
    assert rollouts(result.output_dir) == rollouts(sppo_run.result.output_dir)

    groups = Counter(line for line in asked.read_text().splitlines() if len(json.loads(line)[1]) == config.rollout.responses)
    twice = sum(count - 1 for count in groups.values())
    assert twice <= config.groups_in_flight(), "only groups that were in flight when an actor was killed"
    assert len(groups) == 16


def rollouts(output_dir: Path) -> dict[tuple[int, str], tuple[list[list[int]], list[list[float]], list[list[int]]]]:
    """Iteration and prompt -> response tokens, preferences and picks; every group is there once."""
    import pyarrow.parquet as pq

    columns = ["iteration", "prompt_id", "response_token_ids", "preference", "picked"]
    rows = [row for path in sorted((output_dir / "rollouts").glob("*.parquet")) for row in pq.read_table(path, columns=columns).to_pylist()]
    found = {(row["iteration"], row["prompt_id"]): (row["response_token_ids"], row["preference"], row["picked"]) for row in rows}
    assert len(found) == len(rows)
    return found
