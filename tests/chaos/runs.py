"""Light runs in processes of their own: start one, and read what it left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from raypref.config import RunConfig
from tests.chaos.moments import Fault

BY_SPEED = (
    "time",
    "waiting/",
    "memory_peak/",
    "overlap_efficiency",
    "in_flight/",
    "engine/",
    "failures/",
    "tokens_per_second",
    "rollout/",
    "oracle/",
    "entropy",
)
ITERATIONS, STEPS, BATCH = 3, 4, 4
GROUPS = ITERATIONS * STEPS * BATCH
SLEEPING: dict[str, Any] = {
    "placement": {"device": "cpu", "oracle": {"gpus": 0}, "layout": "colocated", "sleep": True},
    "loop": {"iterations": ITERATIONS, "prompts_per_iteration": STEPS * BATCH, "window_groups": 8, "overlap": False},
}
"""Sections of a run whose engine takes turns with the learner."""


def settings(model: Path, output_dir: Path, **sections: Any) -> dict[str, Any]:
    """INPO, which reads log-probs under both frozen policies; every group gives an example, and every iteration is evaluated and saved."""
    values: dict[str, Any] = {
        "output_dir": str(output_dir),
        "policy": {"path": str(model), "dtype": "float32"},
        "data": {"chat_template": False, "held_out_prompts": 4},
        "loop": {"iterations": ITERATIONS, "prompts_per_iteration": STEPS * BATCH, "window_groups": 8},
        "rollout": {"responses": 4, "max_tokens": 12},
        "sync": {"probe_prompts": 2, "probe_tokens": 8},
        "selection": {"type": "best_worst"},
        "loss": {"type": "inpo"},
        "learner": {"global_batch": BATCH, "optimizer": {"lr": 0.2}, "timeout_s": 60},
        "placement": {"device": "cpu", "oracle": {"gpus": 0}},
        "evaluation": {"bootstrap_resamples": 50},
        "checkpoint": {"restarts": 3, "restart_after_s": 0.1},
    }
    return values | sections


@dataclass(frozen=True, slots=True)
class LightRun:
    """A run's directory, with notes beside it of what was sampled, judged, killed and logged."""

    directory: Path
    model: Path
    sections: dict[str, Any] = field(default_factory=dict)
    two_nodes: bool = False
    environment: dict[str, str] = field(default_factory=dict)
    prompts: int = 100

    @property
    def output_dir(self) -> Path:
        return self.directory / "run"

    @property
    def config(self) -> RunConfig:
        return RunConfig.parse(settings(self.model, self.output_dir, **self.sections))

    def start(self, faults: Sequence[Fault] = ()) -> subprocess.Popen[bytes]:
        """Begin the run in a process of its own, or go on with it."""
        from tests.chaos.light import DIRECTORY

        self.directory.mkdir(parents=True, exist_ok=True)
        request = self.directory / "request.json"
        config = settings(self.model, self.output_dir, **self.sections)
        asked: dict[str, Any] = {"config": config, "faults": [asdict(fault) for fault in faults], "two_nodes": self.two_nodes}
        asked["prompts"] = [f"w{k % 61} w{k // 61 % 61} w{(11 * k + 1) % 61}" for k in range(self.prompts)]
        request.write_text(json.dumps(asked))
        own = {DIRECTORY: str(self.directory), "RAY_ADDRESS": "local", "SPT_NOENV": "1"}
        """``SPT_NOENV`` keeps Ray's names for its processes from being written over the environment, which ``left_behind`` looks at."""
        environment = os.environ | own | self.environment
        with (self.directory / "log").open("ab") as log:
            return subprocess.Popen([sys.executable, "-m", "tests.chaos", str(request)], env=environment, stdout=log, stderr=log)

    def finish(self, faults: Sequence[Fault] = (), timeout_s: float = 200.0) -> int:
        """The exit code of ``start``; negative: the signal that ended the process."""
        process = self.start(faults)
        try:
            return process.wait(timeout_s)
        finally:
            process.kill()

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text()

    def notes(self, file: str) -> list[str]:
        path = self.directory / file
        return path.read_text().splitlines() if path.exists() else []

    def noted(self, file: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.notes(file)]

    def times_sampled(self) -> Counter[str]:
        """Origin -> how often the group was sampled, of the groups that were trained on."""
        origins = {row["origin"] for row in self.rollouts().values()}
        return Counter(origin for origin in self.notes("sampled") if origin in origins)

    def times_judged(self) -> Counter[str]:
        """Origin -> how often the oracle was asked about the group, likewise."""
        origins = {repr((row["prompt"], tuple(row["responses"]))): row["origin"] for row in self.rollouts().values()}
        return Counter(origins[group] for group in self.notes("judged") if group in origins)

    def parameters(self) -> bytes:
        return (self.output_dir / "policy" / "model.safetensors").read_bytes()

    def evaluations(self) -> Any:
        return json.loads((self.output_dir / "summary.json").read_text())["evaluations"]

    def rollouts(self) -> dict[tuple[int, str], Any]:
        """(iteration, prompt) -> what was sampled, judged and picked; every group is there once."""
        import pyarrow.parquet as pq

        columns = ["iteration", "prompt_id", "prompt", "origin", "responses", "response_token_ids", "logprobs", "preference", "picked"]
        parts = sorted((self.output_dir / "rollouts").glob("*.parquet"))
        rows = [row for part in parts for row in pq.read_table(part, columns=columns).to_pylist()]
        found = {(row.pop("iteration"), row.pop("prompt_id")): row for row in rows}
        assert len(found) == len(rows)
        return found

    def metrics(self) -> dict[tuple[int, str], float]:
        """(step, metric) -> value; what a resumed run writes twice must be the same. Left out is what depends on speed: times, and
        means over the groups that happened to be judged since the step before; and what was replaced."""
        found: dict[tuple[int, str], float] = {}
        for line in (self.output_dir / "metrics.jsonl").read_text().splitlines():
            values = json.loads(line)
            step = values.pop("step")
            for name, value in values.items():
                if not name.startswith(BY_SPEED):
                    assert found.setdefault((step, name), value) == value, (step, name)
        return found

    def left_behind(self, within_s: float = 60.0) -> list[str]:
        """Processes of this run that still live after ``within_s`` seconds."""
        deadline = time.monotonic() + within_s
        while (left := self._processes()) and time.monotonic() < deadline:
            time.sleep(0.5)
        return left

    def _processes(self) -> list[str]:
        mark, found = f"={self.directory}\0".encode(), []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and mark in (entry / "environ").read_bytes() + b"\0":
                    found.append(f"{entry.name}: {(entry / 'cmdline').read_bytes()[:200]!r}")
            except OSError:
                continue
        return found


def assert_equal(run: LightRun, whole: LightRun) -> None:
    """Parameters, evaluations, rollouts and metrics are those of the run that nothing happened to."""
    assert run.rollouts() == whole.rollouts()
    assert run.evaluations() == whole.evaluations()
    found, expected = run.metrics(), whole.metrics()
    assert not {key: (found.get(key), expected.get(key)) for key in found.keys() | expected.keys() if found.get(key) != expected.get(key)}
    assert run.parameters() == whole.parameters()


def assert_nothing_repeated(run: LightRun) -> None:
    """No group that was on disk when something happened was sampled or judged after it. Groups sampled = groups needed + at most those in
    flight at the faults, and likewise judged. In flight is, at an engine, the group of its step; at an oracle, what it was asked, which is
    not sampled again; and where all actors end, the whole window.
    """
    sampled, judged, faults = run.times_sampled(), run.times_judged(), run.noted("faults")
    for fault in faults:
        on_disk = set(fault["journal"])
        assert not on_disk & set(run.notes("sampled")[fault["sampled"] :]), fault["stage"]
        texts = {repr((row["prompt"], tuple(row["responses"]))) for row in run.rollouts().values() if row["origin"] in on_disk}
        assert not texts & set(run.notes("judged")[fault["judged"] :]), fault["stage"]
    struck = Counter(fault["target"].partition("-")[0] for fault in faults)
    ends = struck["driver"] + sum("\nrestart " in notice["message"] for notice in run.noted("notices"))
    engines, oracles = struck["rollout"] + struck["node"], struck["oracle"] + struck["node"]
    config = run.config
    needed, window = len(run.rollouts()), config.groups_in_flight()
    assert len(sampled) == len(judged) == needed
    assert sampled.total() <= needed + window * ends + engines
    assert judged.total() <= needed + window * ends + min(window, config.judging.groups) * oracles
